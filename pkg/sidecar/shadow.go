package sidecar

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
	"github.com/phantomrouter/phantom-authz/pkg/telemetry"
)

// shadowReminder is the time between two warnings of shadow mode. Larger lets it be forgotten; smaller fills the log.
const shadowReminder = time.Hour

// shadow reports shadow mode, in which every request is allowed: a gauge, and a warning at the start, after each reload
// and every shadowReminder. Each checker has its own rules.
type shadow struct {
	log     *zap.Logger
	changed chan struct{} // has run look immediately

	mu       sync.Mutex
	checkers map[*extauthz.Checker]struct{} // in use
}

func newShadow(log *zap.Logger, metrics prometheus.Registerer) *shadow {
	s := &shadow{log: log, changed: make(chan struct{}, 1), checkers: map[*extauthz.Checker]struct{}{}}
	metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: Metrics + "_shadow_mode",
		Help: "1 while shadow mode allows every request, else 0.",
	}, func() float64 { return telemetry.Flag(s.on()) }))
	return s
}

func (s *shadow) add(c *extauthz.Checker) {
	s.mu.Lock()
	s.checkers[c] = struct{}{}
	s.mu.Unlock()
	s.look()
}

func (s *shadow) remove(c *extauthz.Checker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.checkers, c)
}

// on reports whether a checker is in shadow mode.
func (s *shadow) on() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.checkers {
		if c.Shadow() {
			return true
		}
	}
	return false
}

// look has run warn, if shadow mode is on.
func (s *shadow) look() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// run warns until ctx ends.
func (s *shadow) run(ctx context.Context) error {
	for {
		select {
		case <-s.changed:
		case <-time.After(shadowReminder):
		case <-ctx.Done():
			return nil
		}
		if s.on() {
			s.log.Warn("shadow mode is on: every request is allowed")
		}
	}
}
