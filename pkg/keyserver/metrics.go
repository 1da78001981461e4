package keyserver

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count what the server does. No label holds anything that a caller chose.
type metrics struct {
	requests    *prometheus.CounterVec
	latency     *prometheus.HistogramVec
	resolved    *prometheus.CounterVec
	storeErrors *prometheus.CounterVec
	beyondHead  prometheus.Counter
	revision    prometheus.Gauge
	sidecars    prometheus.Gauge
	counted     prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyd_requests_total",
			Help: "Requests by side, route and class of the status.",
		}, []string{"side", "route", "status"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "keyd_request_duration_seconds",
			Help:    "Time until the answer was written, the waiting of long polls and of wait_ms included.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5, 15, 60},
		}, []string{"side", "route"}),
		resolved: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyd_resolved_digests_total",
			Help: "Digests that sidecars asked about, by whether they were found.",
		}, []string{"found"}),
		storeErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyd_store_errors_total",
			Help: "Failures of the store, by side or background loop.",
		}, []string{"at"}),
		beyondHead: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "keyd_polls_beyond_head_total",
			Help: "Polls that acknowledge a revision beyond the head of the same epoch.",
		}),
		revision: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "keyd_head_revision",
			Help: "Revision of the newest change in the log.",
		}),
		sidecars: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "keyd_sidecars",
			Help: "Sidecars that held a lease when they were last counted.",
		}),
		counted: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "keyd_sidecars_counted_timestamp_seconds",
			Help: "Unix time at which the sidecars were last counted, 0 if never.",
		}),
	}
	m.sidecars.Set(math.NaN())
	reg.MustRegister(m.requests, m.latency, m.resolved, m.storeErrors, m.beyondHead, m.revision, m.sidecars, m.counted)
	return m
}

func (m *metrics) observe(side, route string, status int, took time.Duration) {
	m.requests.WithLabelValues(side, route, fmt.Sprintf("%dxx", status/100)).Inc()
	m.latency.WithLabelValues(side, route).Observe(took.Seconds())
}

// countSidecars counts those that hold a lease, for the metrics: a scrape never waits for the store.
func (s *Server) countSidecars(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	n, err := s.store.Leases(ctx)
	if err != nil {
		return err
	}
	s.metrics.sidecars.Set(float64(n))
	s.metrics.counted.SetToCurrentTime()
	return nil
}
