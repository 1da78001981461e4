package storetest

import (
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// testCrowd: of many sidecars that a change waits for, the first are named and all are counted.
func testCrowd(e *env) {
	a := e.account()
	epoch := e.head().Epoch
	var g errgroup.Group
	const crowd = 2*keystore.MaxWaitingFor + 7
	for i := range crowd {
		p := keystore.Poll{Sidecar: fmt.Sprintf("s%03d", i), Epoch: epoch, Revision: 1, Lease: time.Minute, MaxStale: time.Duration(i) * time.Minute}
		g.Go(func() error { return e.record(p) })
	}
	e.ok(g.Wait())
	e.key(a.ID)
	check := func() {
		e.Helper()
		head, list, err := allSidecars(e.ctx, e.Store)
		e.ok(err)
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
	for range crowd {
		e.harness.Advance(time.Minute)
	}
	check()
	e.harness.Advance(time.Minute)
	e.waitsFor()
}
