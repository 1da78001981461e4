package httpapi

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts the requests of the sides of an API. No label has a value that a client chose.
type Metrics struct {
	requests *prometheus.CounterVec
	latency  *prometheus.HistogramVec
}

// NewMetrics registers the metrics of one program. The prefix begins their names.
func NewMetrics(reg prometheus.Registerer, prefix string) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: prefix,
			Name:      "requests_total",
			Help:      "Requests, by side, route and status code.",
		}, []string{"side", "route", "code"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: prefix,
			Name:      "request_duration_seconds",
			Help:      "Seconds until the response was written, including the waits of long polls and of wait_ms.",
			Buckets:   []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5, 15, 60},
		}, []string{"side", "route"}),
	}
	reg.MustRegister(m.requests, m.latency)
	return m
}

func (m *Metrics) observe(side, route string, status int, took time.Duration) {
	m.requests.WithLabelValues(side, route, codeLabel(status)).Inc()
	m.latency.WithLabelValues(side, route).Observe(took.Seconds())
}

// codeLabel returns a status code as a label: "other" if HTTP does not define it, so that the number
// of series is bounded.
func codeLabel(status int) string {
	if http.StatusText(status) == "" {
		return "other"
	}
	return strconv.Itoa(status)
}
