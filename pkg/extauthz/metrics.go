package extauthz

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

// Metrics counts checks. Its series are made beforehand: observing one costs no
// look-up by label.
type Metrics struct {
	checks  [2][]prometheus.Counter // by shadow and reason
	seconds [2]prometheus.Observer  // denied, allowed
}

// NewMetrics registers the checks' metrics with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	checks := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "phantom_authz_checks_total",
		Help: "Checks by what was decided, why, and whether it was only reported (shadow mode).",
	}, []string{"decision", "reason", "shadow"})
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "phantom_authz_check_duration_seconds",
		Help:    "Time from a check's arrival in the core to its decision.",
		Buckets: []float64{5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1},
	}, []string{"decision"})
	reg.MustRegister(checks, seconds)

	m := &Metrics{seconds: [2]prometheus.Observer{seconds.WithLabelValues("deny"), seconds.WithLabelValues("allow")}}
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
