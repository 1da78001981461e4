package keycache

import (
	"errors"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

const namespace = "phantom_authz"

type metrics struct {
	hits, misses, shared, servedStale, failures prometheus.Counter
	changes, invalidations, unusable            prometheus.Counter
	resolves, polls                             *prometheus.CounterVec
	digests, seconds                            prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, c *Cache) *metrics {
	f := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help})
	}
	labelled := func(name, label, help string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, []string{label})
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return f.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets})
	}
	lookups := labelled("lookups_total", "result", "Look-ups by result: hit, miss (resolved), stale (served because the key API failed), failed.")
	newGauges(f, c)
	return &metrics{
		hits:          lookups.WithLabelValues("hit"),
		misses:        lookups.WithLabelValues("miss"),
		servedStale:   lookups.WithLabelValues("stale"),
		failures:      lookups.WithLabelValues("failed"),
		shared:        counter("shared_loads_total", "Misses that joined a load in flight."),
		changes:       counter("changes_applied_total", "Applied changes of the change log."),
		unusable:      counter("unusable_results_total", "Results of the key API with a missing or unsupported value."),
		invalidations: counter("invalidations_total", "Invalidations of all entries."),
		resolves:      labelled("resolves_total", "outcome", "Resolves by outcome."),
		polls:         labelled("polls_total", "outcome", "Polls of the change log by outcome."),
		digests:       histogram("resolve_digests", "Digests in a resolve.", []float64{1, 2, 5, 10, 50, 100, 500, 1000}),
		seconds:       histogram("resolve_duration_seconds", "Seconds that a resolve took, retries included.", prometheus.ExponentialBuckets(0.0005, 2, 12)),
	}
}

// newGauges registers the gauges, which read the cache when they are collected.
func newGauges(f promauto.Factory, c *Cache) {
	gauge := func(name, help string, labels prometheus.Labels, read func() float64) {
		f.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help, ConstLabels: labels}, read)
	}
	is := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	for i, name := range modeNames {
		gauge("mode", "1 for the current mode: cold, synced, degraded (the lease has ended), ttl (no change log).",
			prometheus.Labels{"mode": name}, func() float64 { return is(c.mode() == mode(i)) })
	}
	gauge("key_api_down", "1 while resolves or polls of the key API fail, else 0.", nil, func() float64 {
		return is(c.down() || c.pollsFailing.Load())
	})
	gauge("cache_entries", "Cached entries.", prometheus.Labels{"pool": "known"}, func() float64 { n, _ := c.pools.sizes(); return float64(n) })
	gauge("cache_entries", "Cached entries.", prometheus.Labels{"pool": "unknown"}, func() float64 { _, n := c.pools.sizes(); return float64(n) })
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
	}
	m.polls.WithLabelValues(outcome).Inc()
}
