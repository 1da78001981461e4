package httpapi

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts the requests of the sides of an API. No label has a value that a client chose.
type Metrics struct {
	requests *prometheus.CounterVec
	latency  *prometheus.HistogramVec
}

// NewMetrics registers the metrics of one program, whose name begins theirs.
func NewMetrics(reg prometheus.Registerer, program string) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: program,
			Name:      "requests_total",
			Help:      "Requests by side, route and class of the status.",
		}, []string{"side", "route", "status"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: program,
			Name:      "request_duration_seconds",
			Help:      "Seconds until the response was written, including the waits of long polls and of wait_ms.",
			Buckets:   []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5, 15, 60},
		}, []string{"side", "route"}),
	}
	reg.MustRegister(m.requests, m.latency)
	return m
}

func (m *Metrics) observe(side, route string, status int, took time.Duration) {
	m.requests.WithLabelValues(side, route, fmt.Sprintf("%dxx", status/100)).Inc()
	m.latency.WithLabelValues(side, route).Observe(took.Seconds())
}
