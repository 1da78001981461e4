package keycache

import (
	"errors"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

type metrics struct {
	hits, misses, shared, lastResort, failures prometheus.Counter
	changes, beginnings, unusable              prometheus.Counter
	droppedLines                               prometheus.Counter
	resolves, polls                            *prometheus.CounterVec
	digests, seconds                           prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, c *Cache) *metrics {
	counter := func(name, help string) prometheus.Counter {
		m := prometheus.NewCounter(prometheus.CounterOpts{Name: "phantom_authz_" + name, Help: help})
		reg.MustRegister(m)
		return m
	}
	lookups := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "phantom_authz_lookups_total",
		Help: "Look-ups by how they ended: hit, miss (asked), last_resort (answered from what ought to be confirmed), failed.",
	}, []string{"result"})
	m := &metrics{
		hits:         lookups.WithLabelValues("hit"),
		misses:       lookups.WithLabelValues("miss"),
		lastResort:   lookups.WithLabelValues("last_resort"),
		failures:     lookups.WithLabelValues("failed"),
		shared:       counter("shared_loads_total", "Misses that joined a look-up that was under way."),
		changes:      counter("changes_applied_total", "Changes of the log that were applied."),
		unusable:     counter("unusable_results_total", "Results of the key API that lack something or have a value that is not known."),
		beginnings:   counter("beginnings_total", "Invalidations of everything cached."),
		droppedLines: counter("cache_log_lines_dropped_total", "Log lines of the cache that were dropped because the log writer blocked."),
		resolves: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "phantom_authz_resolves_total", Help: "Requests to the key API by outcome.",
		}, []string{"outcome"}),
		polls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "phantom_authz_polls_total", Help: "Polls of the change log by outcome.",
		}, []string{"outcome"}),
		digests: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "phantom_authz_resolve_digests", Help: "Digests in one request to the key API.",
			Buckets: []float64{1, 2, 5, 10, 50, 100, 500, 1000},
		}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "phantom_authz_resolve_duration_seconds", Help: "Time that a request to the key API took, retries included.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 12),
		}),
	}
	reg.MustRegister(lookups, m.resolves, m.polls, m.digests, m.seconds)
	m.gauges(reg, c)
	return m
}

// gauges are read when they are asked for.
func (m *metrics) gauges(reg prometheus.Registerer, c *Cache) {
	gauge := func(name, help string, labels prometheus.Labels, read func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "phantom_authz_" + name, Help: help, ConstLabels: labels,
		}, read))
	}
	for i, name := range modeNames {
		gauge("mode", "1 for what the cache may rely on now: cold, synced, degraded (lease over), ttl (no change log).",
			prometheus.Labels{"mode": name}, func() float64 {
				if c.state.Load().mode(time.Now()) == mode(i) {
					return 1
				}
				return 0
			})
	}
	gauge("key_api_down", "1 while resolves or polls of the key API fail, else 0.", nil, func() float64 {
		if !c.breaker.allows() || c.pollsFail.Load() {
			return 1
		}
		return 0
	})
	gauge("cache_entries", "Entries kept.", prometheus.Labels{"pool": "known"}, func() float64 { n, _ := c.pools.sizes(); return float64(n) })
	gauge("cache_entries", "Entries kept.", prometheus.Labels{"pool": "unknown"}, func() float64 { _, n := c.pools.sizes(); return float64(n) })
	gauge("revision", "Newest revision of the change log that was seen.", nil, func() float64 {
		c.mu.Lock()
		defer c.mu.Unlock()
		return float64(c.seen)
	})
	gauge("lease_remaining_seconds", "Time until the lease ends; negative once it has, 0 before the first.", nil, func() float64 {
		s := c.state.Load()
		if s.sent.IsZero() || s.dropped {
			return 0
		}
		return (trusted(s.lease) - elapsed(s.sent, time.Now())).Seconds()
	})
}

// resolved counts one request to the key API.
func (m *metrics) resolved(digests int, took time.Duration, err error) {
	m.digests.Observe(float64(digests))
	m.seconds.Observe(took.Seconds())
	m.resolves.WithLabelValues(resolveOutcome(err)).Inc()
}

func resolveOutcome(err error) string {
	var (
		status *sidecarapi.StatusError
		netErr net.Error
	)
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &status):
		return "status"
	case errors.As(err, &netErr):
		return "unreachable"
	}
	return "malformed"
}

func (m *metrics) polled(outcome string) { m.polls.WithLabelValues(outcome).Inc() }
