package keyserver

import (
	"context"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// Thousands of sidecars acknowledge a change within moments of each other. Between two
// looks at one change lie some times what a look takes, so that looking leaves the
// processor to the acknowledgements; the longest pause is part of how late the last
// one is told (50 ms at most).
const (
	lullPerLook = 4
	leastLull   = time.Millisecond
	mostLull    = 10 * time.Millisecond
)

// reached tells how far the change with that revision has come, as soon as it is
// effective or the call's wait is over.
func (s *Server) reached(ctx context.Context, c *call, revision int64) (changeView, error) {
	c.written()
	ctx = context.WithoutCancel(ctx) // this may wait longer than a store may take
	until := time.Now().Add(c.wait)
	var seen changeView
	for first := true; ; first = false {
		changed, began := s.store.Changed(), time.Now()
		head, progress, err := s.progress(ctx, revision)
		if err != nil {
			if first {
				return changeView{}, err
			}
			break // what was seen before is still true
		}
		seen = viewChange(c, revision, progress)
		left, took := time.Until(until), time.Since(began)
		lull := min(max(lullPerLook*took, leastLull), mostLull)
		if took > mostLull { // of a crowd of sidecars: what looks take must stay a part of the time
			lull = lullPerLook * took
		}
		if progress.Effective || left <= 0 || !s.rest(c, min(left, lull), nil) {
			break
		}
		// It also becomes effective by itself, when a sidecar's time is over.
		left = min(time.Until(until), lookAgain, progress.EffectiveBy.Sub(head.Now)-mostLull)
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

func (s *Server) progress(ctx context.Context, revision int64) (keystore.Head, keystore.Progress, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return s.store.Progress(ctx, revision)
}
