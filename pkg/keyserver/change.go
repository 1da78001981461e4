package keyserver

import (
	"context"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// acknowledgeLull is the least time between two looks at one change: thousands of
// sidecars acknowledge it within moments of each other. It is part of how late the
// last acknowledgement is told (50 ms at most).
const acknowledgeLull = 10 * time.Millisecond

// reached tells how far the change with that revision has come, as soon as it is
// effective or the call's wait is over.
func (s *Server) reached(ctx context.Context, c *call, revision int64) (changeView, error) {
	ctx = context.WithoutCancel(ctx) // this may wait longer than a store may take
	until := time.Now().Add(c.wait)
	var seen changeView
	for first := true; ; first = false {
		changed := s.store.Changed()
		head, sidecars, err := s.sidecarList(ctx)
		if err != nil {
			if first {
				return changeView{}, err
			}
			break // what was seen before is still true
		}
		progress := keystore.ProgressOf(revision, head, sidecars)
		seen = viewChange(revision, progress)
		left := time.Until(until)
		if progress.Effective || left <= 0 || !s.rest(c, min(left, acknowledgeLull), nil) {
			break
		}
		// It also becomes effective by itself, when a sidecar's time is over.
		left = min(time.Until(until), lookAgain, progress.EffectiveBy.Sub(head.Now)-acknowledgeLull)
		if !s.rest(c, left, changed) {
			break
		}
	}
	return seen, nil
}

// rest pauses, and tells whether it is worth to go on waiting.
func (s *Server) rest(c *call, d time.Duration, wake <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-wake:
		return true
	case <-s.draining:
		return false
	case <-c.gone():
		return false
	}
}

func (s *Server) sidecarList(ctx context.Context) (keystore.Head, []keystore.Sidecar, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return s.store.Sidecars(ctx)
}
