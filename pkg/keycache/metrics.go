package keycache

import (
	"errors"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
	"github.com/phantomrouter/phantom-authz/pkg/telemetry"
)

const namespace = "phantom_authz"

type metrics struct {
	hits, misses, shared, servedStale, failures, refused prometheus.Counter
	changes, invalidations, unusable                     prometheus.Counter
	resolves, polls                                      *prometheus.CounterVec
	digests, seconds, application                        prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, c *Cache) *metrics {
	f := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help})
	}
	labelled := func(name, label, help string, values ...string) *prometheus.CounterVec {
		return telemetry.Preset(f.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, []string{label}), values...)
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return f.NewHistogram(telemetry.Native(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets}))
	}
	lookups := labelled("lookups_total", "result", "Look-ups by result: hit, miss (resolved), stale (served because the key API failed), failed.")
	newGauges(f, c)
	return &metrics{
		hits:          lookups.WithLabelValues("hit"),
		misses:        lookups.WithLabelValues("miss"),
		servedStale:   lookups.WithLabelValues("stale"),
		failures:      lookups.WithLabelValues("failed"),
		shared:        counter("shared_loads_total", "Misses that joined a load in flight."),
		refused:       counter("admission_refused_total", "Loads of uncached credentials that were refused by the admission limit."),
		changes:       counter("changes_applied_total", "Applied changes of the change log."),
		unusable:      counter("unusable_results_total", "Results of the key API with a missing or unsupported value."),
		invalidations: counter("invalidations_total", "Invalidations of all entries."),
		resolves:      labelled("resolves_total", "outcome", "Resolves by outcome.", "ok", "status", "unreachable", "malformed"),
		polls:         labelled("polls_total", "outcome", "Polls of the change log by outcome.", "ok", "gone", "conflict", "not_offered", "error"),
		digests:       histogram("resolve_digests", "Digests in a resolve.", []float64{1, 2, 5, 10, 50, 100, 500, 1000}),
		seconds:       histogram("resolve_duration_seconds", "Seconds that a resolve took, retries included.", prometheus.ExponentialBuckets(0.0005, 2, 12)),
		application: histogram("change_application_seconds", "Seconds from the receipt of changes to their application.",
			[]float64{1e-5, 1e-4, 1e-3, 0.01, 0.1, 1}),
	}
}

// newGauges registers the metrics that read the cache when they are collected.
func newGauges(f promauto.Factory, c *Cache) {
	gauge := func(name, help string, labels prometheus.Labels, read func() float64) {
		f.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help, ConstLabels: labels}, read)
	}
	for i, name := range modeNames {
		gauge("mode", "1 for the current mode: cold, synced, degraded (the lease has ended), ttl (no change log).",
			prometheus.Labels{"mode": name}, func() float64 { return telemetry.Flag(c.mode() == mode(i)) })
	}
	const down = "1 while the resolves or the polls of the key API fail, else 0."
	gauge("key_api_down", down, prometheus.Labels{"by": "resolve"}, func() float64 { return telemetry.Flag(c.down()) })
	gauge("key_api_down", down, prometheus.Labels{"by": "poll"}, func() float64 { return telemetry.Flag(c.pollsFailing.Load()) })
	for id, name := range poolNames {
		labels := prometheus.Labels{"pool": name}
		gauge("cache_entries", "Cached entries.", labels, func() float64 { return float64(c.pools.sum(poolID(id)).size) })
		gauge("cache_entries_limit", "Largest number of cached entries.", labels, func() float64 { return float64(c.pools.sum(poolID(id)).limit) })
		f.NewCounterFunc(prometheus.CounterOpts{Namespace: namespace, Name: "cache_evictions_total", Help: "Entries evicted because their pool was full.", ConstLabels: labels},
			func() float64 { return float64(c.pools.sum(poolID(id)).evicted) })
	}
	gauge("admission_waiting", "Loads of uncached credentials that wait for the admission limit.", nil, func() float64 {
		c.mu.Lock()
		defer c.mu.Unlock()
		return float64(len(c.limiter.queue))
	})
	gauge("revision", "Newest revision seen of the change log.", nil, func() float64 {
		c.mu.Lock()
		defer c.mu.Unlock()
		return float64(c.revision)
	})
	gauge("lease_remaining_seconds", "Seconds until the lease ends; negative after its end, 0 before the first.", nil, func() float64 {
		s := c.state.Load()
		if s.sent.isZero() || s.dropped {
			return 0
		}
		return (subtractDrift(s.lease) - elapsed(s.sent, momentOf(time.Now()))).Seconds()
	})
	gauge("acknowledgement_age_seconds", "Seconds since the last poll that was answered with a lease, since the start before the first; 0 in mode ttl.", nil, func() float64 {
		if c.mode() == ttl {
			return 0
		}
		return (time.Since(origin) - time.Duration(c.acknowledged.Load())).Seconds()
	})
}

// resolved records a resolve.
func (m *metrics) resolved(digests int, took time.Duration, err error) {
	m.digests.Observe(float64(digests))
	m.seconds.Observe(took.Seconds())
	outcome := "malformed"
	if err == nil {
		outcome = "ok"
	} else if _, ok := errors.AsType[*sidecarapi.StatusError](err); ok {
		outcome = "status"
	} else if _, ok := errors.AsType[net.Error](err); ok {
		outcome = "unreachable"
	}
	m.resolves.WithLabelValues(outcome).Inc()
}

// polled records a poll.
func (m *metrics) polled(err error) {
	outcome := "error"
	if err == nil {
		outcome = "ok"
	} else if _, ok := errors.AsType[*sidecarapi.Gone](err); ok {
		outcome = "gone"
	} else if errors.Is(err, sidecarapi.ErrConflict) {
		outcome = "conflict"
	} else if errors.Is(err, sidecarapi.ErrNotOffered) {
		outcome = "not_offered"
	}
	m.polls.WithLabelValues(outcome).Inc()
}
