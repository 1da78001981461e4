package keyserver

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
)

// metrics are the metrics of a Server. No label has a value that a caller chose.
type metrics struct {
	http        *httpapi.Metrics
	resolved    *prometheus.CounterVec
	storeErrors *prometheus.CounterVec
	beyondHead  prometheus.Counter
	revision    prometheus.Gauge
	sidecars    prometheus.Gauge
	counted     prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		http: httpapi.NewMetrics(reg, "phantom_keyd"),
		resolved: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "phantom_keyd_resolved_digests_total",
			Help: "Digests in resolve requests, by whether they were found.",
		}, []string{"found"}),
		storeErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "phantom_keyd_store_errors_total",
			Help: "Failures of the store, by side or background loop.",
		}, []string{"at"}),
		beyondHead: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "phantom_keyd_polls_beyond_head_total",
			Help: "Polls that acknowledge a revision beyond the head of the same epoch.",
		}),
		revision: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "phantom_keyd_head_revision",
			Help: "Revision of the newest change in the log.",
		}),
		sidecars: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "phantom_keyd_sidecars",
			Help: "Sidecars with a lease at the last count.",
		}),
		counted: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "phantom_keyd_sidecars_counted_timestamp_seconds",
			Help: "Unix time of the last count of the sidecars, 0 if there was none.",
		}),
	}
	m.sidecars.Set(math.NaN())
	reg.MustRegister(m.resolved, m.storeErrors, m.beyondHead, m.revision, m.sidecars, m.counted)
	return m
}
