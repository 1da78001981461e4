package extauthz

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/phantomrouter/phantom-authz/pkg/policy"
	"github.com/phantomrouter/phantom-authz/pkg/telemetry"
)

// Metrics counts checks. It makes all series in advance, so that a check needs no look-up by label.
// It is safe for concurrent use.
type Metrics struct {
	checks  [2][]prometheus.Counter // by shadow and reason
	waiting prometheus.Gauge
	seconds [2]prometheus.Observer // denied, allowed
	late    prometheus.Counter

	// Transports count in these.
	Panics    prometheus.Counter // checks that panicked
	Malformed prometheus.Counter // messages that are not an encoded CheckRequest
	TooLarge  prometheus.Counter // messages that are larger than the transport accepts
}

// NewMetrics registers the checks' metrics with reg. Checks that panic count in panics; nil means that
// nothing reads their number.
func NewMetrics(reg prometheus.Registerer, panics prometheus.Counter) *Metrics {
	if panics == nil {
		panics = prometheus.NewCounter(prometheus.CounterOpts{})
	}
	auto := promauto.With(reg)
	checks := auto.NewCounterVec(prometheus.CounterOpts{
		Name: "phantom_authz_checks_total",
		Help: "Checks by decision, reason and shadow mode.",
	}, []string{"decision", "reason", "shadow"})
	seconds := auto.NewHistogramVec(telemetry.Native(prometheus.HistogramOpts{
		Name:    "phantom_authz_check_duration_seconds",
		Help:    "Seconds from a check's arrival in the process to its answer.",
		Buckets: []float64{5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1},
	}), []string{"decision"})
	undecodable := auto.NewCounterVec(prometheus.CounterOpts{
		Name: "phantom_authz_undecodable_messages_total",
		Help: "Messages that are not valid checks, by cause. Each was answered with a gRPC error.",
	}, []string{"cause"})
	m := &Metrics{
		waiting: auto.NewGauge(prometheus.GaugeOpts{
			Name: "phantom_authz_checks_in_flight",
			Help: "Checks that wait for a look-up. Those that the cache answers are not counted: they take microseconds.",
		}),
		seconds: [2]prometheus.Observer{seconds.WithLabelValues("deny"), seconds.WithLabelValues("allow")},
		late: auto.NewCounter(prometheus.CounterOpts{
			Name: "phantom_authz_late_answers_total",
			Help: "Allowed checks that were answered as unavailable because they took longer than the limit.",
		}),
		Panics:    panics,
		Malformed: undecodable.WithLabelValues("malformed"),
		TooLarge:  undecodable.WithLabelValues("too_large"),
	}
	for shadow, label := range []string{"false", "true"} {
		for _, reason := range policy.Reasons() {
			d := policy.Decision{Reason: reason}
			m.checks[shadow] = append(m.checks[shadow], checks.WithLabelValues(decisionName(d), reason.String(), label))
		}
	}
	return m
}

func (m *Metrics) observe(d policy.Decision, shadow bool, took time.Duration) {
	mode, allowed := 0, 0
	if shadow {
		mode = 1
	}
	if d.Allowed() {
		allowed = 1
	}
	m.checks[mode][d.Reason].Inc()
	m.seconds[allowed].Observe(took.Seconds())
}
