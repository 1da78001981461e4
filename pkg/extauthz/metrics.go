package extauthz

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

// Metrics counts checks. Its series are made beforehand: observing one costs no
// look-up by label. It is safe for concurrent use.
type Metrics struct {
	checks      [2][]prometheus.Counter // by shadow and reason
	seconds     [2]prometheus.Observer  // denied, allowed
	late        prometheus.Counter
	panics      prometheus.Counter
	undecodable [causes]prometheus.Counter
}

// Cause is why a message could not be read as a check.
type Cause uint8

// The causes.
const (
	Malformed Cause = iota // it is not an encoded CheckRequest
	TooLarge               // it is larger than the front accepts
	causes
)

// NewMetrics registers the checks' metrics with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	checks := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "phantom_authz_checks_total",
		Help: "Checks by what was decided, why, and whether it was only reported (shadow mode).",
	}, []string{"decision", "reason", "shadow"})
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "phantom_authz_check_duration_seconds",
		Help:    "Time from a check's arrival in the process to its answer, in seconds.",
		Buckets: []float64{5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1},
	}, []string{"decision"})
	late := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "phantom_authz_late_answers_total",
		Help: "Checks that came out as an allow but were answered as unavailable, because they took longer than the limit.",
	})
	panics := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "phantom_authz_panics_total",
		Help: "Checks that ended in a panic of the program and were answered as unavailable.",
	})
	undecodable := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "phantom_authz_undecodable_messages_total",
		Help: "Messages of a proxy that could not be read as a check, by cause; each was answered with a gRPC error.",
	}, []string{"cause"})
	reg.MustRegister(checks, seconds, late, panics, undecodable)

	m := &Metrics{
		seconds:     [2]prometheus.Observer{seconds.WithLabelValues("deny"), seconds.WithLabelValues("allow")},
		late:        late,
		panics:      panics,
		undecodable: [causes]prometheus.Counter{Malformed: undecodable.WithLabelValues("malformed"), TooLarge: undecodable.WithLabelValues("too_large")},
	}
	for shadow, label := range []string{"false", "true"} {
		for _, reason := range policy.Reasons() {
			decision := "deny"
			if reason == policy.OK {
				decision = "allow"
			}
			m.checks[shadow] = append(m.checks[shadow], checks.WithLabelValues(decision, reason.String(), label))
		}
	}
	return m
}

func (m *Metrics) observe(reason policy.Reason, shadow bool, took time.Duration) {
	mode, decision := 0, 0
	if shadow {
		mode = 1
	}
	if reason == policy.OK {
		decision = 1
	}
	m.checks[mode][reason].Inc()
	m.seconds[decision].Observe(took.Seconds())
}

// Panicked counts a check that ended in a panic.
func (m *Metrics) Panicked() { m.panics.Inc() }

// Undecodable counts a message that could not be read as a check.
func (m *Metrics) Undecodable(cause Cause) { m.undecodable[cause].Inc() }
