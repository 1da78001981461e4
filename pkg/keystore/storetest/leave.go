package storetest

import (
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// testPollNumbers: a number that is not larger than the one on record is refused, and then nothing
// is recorded; the number of every other poll is.
func testPollNumbers(e *env) {
	e.account()
	e.account()
	epoch := e.head().Epoch
	poll := func(number, revision int64) keystore.Poll {
		return keystore.Poll{Sidecar: "s", Number: number, Epoch: epoch, Revision: revision, Lease: time.Minute, MaxStale: time.Minute}
	}
	e.is(e.record(poll(7, -1)), keystore.ErrGone)
	e.ok(e.record(poll(5, 1))) // a request for the head does not record its number
	first := e.sidecar("s")
	e.same("number", first.Poll, int64(5))
	e.harness.Advance(time.Second)
	for _, late := range []keystore.Poll{poll(5, 2), poll(4, 1), poll(1, 2), poll(5, -1), poll(3, 99)} {
		e.nothing(func() { e.conflict(e.record(late)) })
		late.Leave = true
		e.nothing(func() { e.conflict(e.record(late)) })
	}
	e.same("after the refused ones", e.sidecar("s"), first)

	e.is(e.record(poll(9, 3)), keystore.ErrGone) // beyond the head
	first.Poll = 9
	e.same("after one without a lease", e.sidecar("s"), first)
	e.conflict(e.record(poll(9, 2)))
	e.ok(e.record(poll(1<<62, 2)))
	e.conflict(e.record(poll(1<<62, 2)))
	e.Store = e.harness.Reopen()
	e.conflict(e.record(poll(1<<62, 2)))

	// The number counts after the sidecar's time, too: a process that was frozen goes on.
	e.harness.Advance(time.Hour)
	e.conflict(e.record(poll(8, 2)))
	e.ok(e.record(poll(1<<62+1, 2)))
}

// refused checks that every poll of the sidecar s is refused, whatever its number, and that one more
// leave is not.
func (e *env) refused(epoch string) {
	e.Helper()
	const name = "s"
	for _, number := range []int64{1, 0, 1 << 40} {
		for _, revision := range []int64{-1, 1} {
			p := keystore.Poll{Sidecar: name, Number: number, Epoch: epoch, Revision: revision, Lease: time.Hour}
			e.nothing(func() { e.conflict(e.record(p)) })
		}
	}
	_, list, err := allSidecars(e.ctx, e.Store)
	e.ok(err)
	for _, s := range list {
		if s.Name == name {
			e.Fatalf("%s is listed: %+v", name, s)
		}
	}
	e.nothing(func() { e.ok(e.record(keystore.Poll{Sidecar: name, Lease: time.Hour, Leave: true})) })
	_, err = e.Forget(e.ctx, actor, name)
	e.is(err, keystore.ErrNotFound)
}

// waitsFor checks which sidecars the change 2 waits for.
func (e *env) waitsFor(names ...string) {
	e.Helper()
	_, p, err := e.Progress(e.ctx, 2)
	e.ok(err)
	e.same("sidecars that the change waits for", p.WaitingFor, append([]string{}, names...))
	e.same("their number", p.Waiting, len(names))
}

// testLeave: no change waits for a sidecar that has left; its polls are refused as long as the
// record would have counted, and not longer.
func testLeave(e *env) {
	a := e.account()
	epoch := e.head().Epoch
	p := keystore.Poll{Sidecar: "s", Epoch: epoch, Revision: 1, Lease: time.Minute, MaxStale: time.Hour}
	e.poll(p)
	e.key(a.ID)
	e.waitsFor("s")

	p.Leave, p.Epoch, p.Revision, p.MaxStale = true, "another", -9, 5*time.Hour
	p.Number = polls.Add(1)
	head, lease, err := e.RecordPoll(e.ctx, p)
	e.ok(err)
	e.same("lease", lease, time.Duration(0))
	e.same("head", head.Revision, int64(2))
	e.waitsFor()
	e.refused(epoch)
	e.Store = e.harness.Reopen()
	e.refused(epoch)
	e.harness.Advance(30 * time.Minute)
	e.ok(e.Prune(e.ctx, time.Second))
	e.refused(epoch)
	e.harness.Advance(31*time.Minute + time.Second)
	e.poll(keystore.Poll{Sidecar: "s", Number: 1, Epoch: epoch, Revision: 2, Lease: time.Minute})
}

// testLeaveWithoutRecord: the first poll may be delayed, and arrive after the leave.
func testLeaveWithoutRecord(e *env) {
	e.account()
	epoch := e.head().Epoch
	leave := keystore.Poll{Sidecar: "s", Lease: time.Minute, MaxStale: time.Hour, Leave: true}
	e.nothing(func() { e.ok(e.record(leave)) })
	e.refused(epoch)
	e.harness.Advance(time.Hour)
	e.refused(epoch)
	e.harness.Advance(time.Minute + time.Second)
	e.poll(keystore.Poll{Sidecar: "s", Number: 1, Epoch: epoch, Revision: 1, Lease: time.Minute})

	// So it is with a record whose time is over.
	e.harness.Advance(time.Minute + time.Second)
	e.ok(e.record(leave))
	e.harness.Advance(time.Hour)
	e.refused(epoch)
}

// testForget: an operator has no change wait for a sidecar known to be gone.
func testForget(e *env) {
	a := e.account()
	epoch := e.head().Epoch
	_, err := e.Forget(e.ctx, actor, "s")
	e.is(err, keystore.ErrNotFound)
	e.poll(keystore.Poll{Sidecar: "s", Epoch: epoch, Revision: 1, Lease: time.Minute, MaxStale: time.Hour})
	e.poll(keystore.Poll{Sidecar: "t", Epoch: epoch, Revision: 1, Lease: time.Minute})
	e.key(a.ID)
	record, now := e.sidecar("s"), e.head().Now
	got := e.effect(func() {
		forgotten, err := e.Forget(e.ctx, actor, "s")
		e.ok(err)
		forgotten.Grants, record.Grants = nil, nil
		e.same("forgotten", forgotten, record)
	})
	e.same("changes", len(got.changes), 0)
	e.logged(got, now, keystore.Event{Action: keystore.SidecarForget, Detail: map[string]string{"name": "s"}})
	e.waitsFor("t")
	e.refused(epoch)
	e.harness.Advance(time.Hour)
	e.refused(epoch)
	_, err = e.Forget(e.ctx, actor, "t") // its time is over
	e.is(err, keystore.ErrNotFound)
	e.harness.Advance(time.Minute + time.Second)
	e.poll(keystore.Poll{Sidecar: "s", Epoch: epoch, Revision: 2, Lease: time.Minute})
}
