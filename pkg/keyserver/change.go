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
func (s *Server) reached(c *call, revision int64) (changeView, error) {
	// The request's own context: this may wait longer than a store may take.
	ctx := c.request.Context()
	until := time.Now().Add(c.wait)
	var seen changeView
	for first := true; ; first = false {
		changed := s.store.Changed()
		head, sidecars, err := s.sidecarList(ctx)
		switch {
		case err != nil && first:
			return changeView{}, err
		case err != nil:
			return seen, nil // what was seen before is still true
		}
		progress := keystore.ProgressOf(revision, head, sidecars)
		seen = viewChange(revision, progress)
		left := time.Until(until)
		if progress.Effective || left <= 0 {
			return seen, nil
		}
		if !s.rest(ctx, min(left, acknowledgeLull), nil) {
			return seen, nil
		}
		// It also becomes effective by itself, when a sidecar's time is over.
		left = min(time.Until(until), lookAgain, progress.EffectiveBy.Sub(head.Now)-acknowledgeLull)
		if !s.rest(ctx, left, changed) {
			return seen, nil
		}
	}
}

// rest pauses, and tells whether it is worth to go on waiting.
func (s *Server) rest(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-wake:
		return true
	case <-s.draining:
		return false
	case <-ctx.Done():
		return false
	}
}

func (s *Server) sidecarList(ctx context.Context) (keystore.Head, []keystore.Sidecar, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return s.store.Sidecars(ctx)
}
