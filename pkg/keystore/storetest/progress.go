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

// testManySidecars: of many sidecars that a change waits for, the first are named and all are counted.
func testManySidecars(e *env) {
	a := e.account()
	epoch := e.head().Epoch
	var g errgroup.Group
	const sidecars = 2*keystore.MaxWaitingFor + 7
	for i := range sidecars {
		p := keystore.Poll{Sidecar: fmt.Sprintf("s%03d", i), Epoch: epoch, Revision: 1, Lease: time.Minute, MaxStale: time.Duration(i) * time.Minute}
		g.Go(func() error { return e.record(p) })
	}
	e.ok(g.Wait())
	e.key(a.ID)
	check := func() {
		e.Helper()
		head, list := e.sidecars()
		_, got, err := e.Progress(e.ctx, 2)
		e.ok(err)
		e.same("progress", got, keystore.ProgressOf(2, head, list))
		e.same("names", len(got.WaitingFor), min(got.Waiting, keystore.MaxWaitingFor))
	}
	check()
	for _, revision := range []int64{2, 1} { // one acknowledges; the poll of another is answered with the change
		p := keystore.Poll{Sidecar: fmt.Sprintf("s%03d", revision), Epoch: epoch, Revision: revision, Lease: time.Hour, MaxStale: time.Hour}
		e.ok(e.record(p))
		check()
	}
	e.harness.Advance(sidecars * time.Minute)
	check()
	e.harness.Advance(time.Minute)
	e.waitsFor()
}

// later reports whether a change was effective before and is not now, or becomes effective later than stated before.
func later(before, now keystore.Progress) bool {
	return before.Effective && !now.Effective || !before.Effective && now.EffectiveBy.After(before.EffectiveBy)
}

// testProgressUnderPolls: while sidecars poll without a pause, some of which never acknowledge, no change becomes effective
// later than stated. A poll that is recorded concurrently with a change, without seeing it, would cause that.
func testProgressUnderPolls(e *env) {
	ctx, cancel := context.WithTimeout(e.ctx, time.Minute)
	defer cancel()
	a := e.account()
	epoch := e.head().Epoch
	var polls errgroup.Group
	var stop atomic.Bool
	for i := range 4 {
		polls.Go(func() error { return pollOn(ctx, e.Store, fmt.Sprint("sidecar_", i), epoch, i%2 == 0, &stop) })
	}
	stated := map[int64]keystore.Progress{}
	for range 40 {
		e.key(a.ID)
		head, sidecars := e.sidecars()
		for revision := int64(1); revision <= head.Revision; revision++ {
			now := keystore.ProgressOf(revision, head, sidecars)
			if before, ok := stated[revision]; ok && later(before, now) {
				e.Fatalf("the progress of change %d was %+v, and then %+v", revision, before, now)
			}
			stated[revision] = now
		}
	}
	stop.Store(true)
	e.ok(polls.Wait())
}

// pollOn polls until it is stopped. If silent, it acknowledges nothing until it gets no lease.
func pollOn(ctx context.Context, s keystore.Store, name, epoch string, silent bool, stop *atomic.Bool) error {
	after := int64(0)
	for !stop.Load() {
		p := keystore.Poll{Sidecar: name, Epoch: epoch, Revision: after, Number: lastPoll.Add(1), Limit: 1000, Lease: time.Minute}
		head, _, err := s.RecordPoll(ctx, p)
		gone := errors.Is(err, keystore.ErrGone)
		if err != nil && !gone {
			return err
		}
		if gone || !silent {
			after = head.Revision
		}
	}
	return nil
}
