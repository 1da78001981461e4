package keyserver

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
	"github.com/phantomrouter/phantom-authz/pkg/telemetry"
)

// namespace begins the names of keyd's metrics.
const namespace = "phantom_keyd"

// metrics are the metrics of a Server. No label has a value that a caller chose. Those of sidecars and changes are NaN
// until the first count, so that "none" and "not known" differ.
type metrics struct {
	http        *httpapi.Metrics
	resolved    *prometheus.CounterVec
	storeErrors *prometheus.CounterVec
	rejected    *prometheus.CounterVec
	beyondHead  prometheus.Counter
	revision    prometheus.Gauge
	sidecars    prometheus.Gauge
	behind      prometheus.Gauge
	slowest     prometheus.Gauge
	pending     prometheus.Gauge
	oldest      prometheus.Gauge
	counted     prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, label, help string, values ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, []string{label})
		reg.MustRegister(c)
		return telemetry.Preset(c, values...)
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help})
		reg.MustRegister(g)
		return g
	}
	m := &metrics{
		http:        httpapi.NewMetrics(reg, namespace),
		resolved:    counter("resolved_digests_total", "found", "Digests in resolve requests, by whether they were found.", "true", "false"),
		storeErrors: counter("store_errors_total", "at", "Failures of the store, by side or background loop.", sidecarsSide, operatorsSide, ownersSide, followLoop, pruneLoop, countLoop),
		rejected:    counter("owner_writes_rejected_total", "limit", "Owners' writes that were answered with 429, by the limit that was reached.", rateLimit, concurrentLimit),
		beyondHead: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace,
			Name:      "polls_beyond_head_total",
			Help:      "Polls that acknowledge a revision beyond the head of the same epoch.",
		}),
		revision: gauge("head_revision", "Revision of the newest change in the log."),
		sidecars: gauge("sidecars", "Sidecars with a lease at the last count."),
		behind:   gauge("slowest_sidecar_changes_behind", "Largest number of changes that a sidecar with a lease has not acknowledged, at the last count."),
		slowest:  gauge("slowest_sidecar_acknowledgement_age_seconds", "Seconds since the last acknowledgement of the sidecar with a lease that has sent none for longest, at the last count."),
		pending:  gauge("changes_pending", "Changes that are not effective because sidecars may still use older facts, at the last count."),
		oldest:   gauge("oldest_pending_change_age_seconds", "Seconds since this process first saw the oldest change that is not effective, at the last count; 0 without one."),
		counted:  gauge("sidecars_counted_timestamp_seconds", "Unix time of the last count of the sidecars and pending changes, 0 if there was none."),
	}
	reg.MustRegister(m.beyondHead)
	for _, g := range []prometheus.Gauge{m.sidecars, m.behind, m.slowest, m.pending, m.oldest} {
		g.Set(math.NaN())
	}
	return m
}

// codes are the status codes of each side's operations. Their series exist from the start.
var codes = map[string][]int{
	sidecarsSide:  {200, 204, 400, 401, 403, 409, 410, 413, 415, 429, 503},
	operatorsSide: {200, 201, 400, 401, 403, 404, 409, 413, 415, 429, 503},
	ownersSide:    {200, 201, 400, 403, 404, 409, 413, 415, 429, 503},
}
