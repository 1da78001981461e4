package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// testToldUnderPolls: while sidecars poll without a pause, some of which never
// acknowledge, what was told of a change is never taken back. A poll that is recorded
// beside a change, knowing nothing of it, would do that.
func testToldUnderPolls(e *env) {
	ctx, cancel := context.WithTimeout(e.ctx, time.Minute)
	defer cancel()
	a := e.account()
	epoch := e.head().Epoch
	var polls errgroup.Group
	var stop atomic.Bool
	for i := range 4 {
		polls.Go(func() error { return pollOn(ctx, e.Store, fmt.Sprint("sidecar_", i), epoch, i%2 == 0, &stop) })
	}
	told := map[int64]keystore.Progress{}
	for range 40 {
		e.key(a.ID)
		head, sidecars, err := allSidecars(ctx, e.Store)
		e.ok(err)
		for revision := int64(1); revision <= head.Revision; revision++ {
			now := keystore.ProgressOf(revision, head, sidecars)
			before, ok := told[revision]
			if ok && (before.Effective && !now.Effective || !before.Effective && now.EffectiveBy.After(before.EffectiveBy)) {
				e.Fatalf("of change %d it was told %+v, and then %+v", revision, before, now)
			}
			told[revision] = now
		}
	}
	stop.Store(true)
	e.ok(polls.Wait())
}

// pollOn polls until it is stopped; one that is deaf hears no answer until no lease is left.
func pollOn(ctx context.Context, s keystore.Store, name, epoch string, deaf bool, stop *atomic.Bool) error {
	after := int64(0)
	for !stop.Load() {
		p := keystore.Poll{Sidecar: name, Epoch: epoch, Revision: after, Number: polls.Add(1), Limit: 1000, Lease: time.Minute}
		head, _, err := s.RecordPoll(ctx, p)
		gone := errors.Is(err, keystore.ErrGone)
		if err != nil && !gone {
			return err
		}
		if gone || !deaf {
			after = head.Revision
		}
	}
	return nil
}
