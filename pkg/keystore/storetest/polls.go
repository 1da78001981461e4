package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// lastPoll is the number of the last poll of all tests.
var lastPoll atomic.Int64

// record records a poll. If the poll has no number, it gets the next one, and if it has no limit, 1000.
func (e *env) record(p keystore.Poll) error { return record(e.ctx, e.Store, p) }

func record(ctx context.Context, s keystore.Store, p keystore.Poll) error {
	if p.Limit == 0 {
		p.Limit = 1000
	}
	if p.Number == 0 {
		p.Number = lastPoll.Add(1)
	}
	_, _, err := s.RecordPoll(ctx, p)
	return err
}

// poll records a poll and checks that the lease on record begins not before the call.
func (e *env) poll(p keystore.Poll) {
	e.Helper()
	before := e.head().Now
	e.ok(e.record(p))
	s := e.sidecar(p.Sidecar)
	if s.LeaseEndsAt.Before(before.Add(p.Lease)) || s.StaleEndsAt.Before(before.Add(p.Lease+p.MaxStale)) || s.Revision < p.Revision {
		e.Fatalf("recorded %+v, for a poll after %v: %+v", s, before, p)
	}
}

// listSidecars lists all sidecars, which must fit on one page.
func listSidecars(ctx context.Context, s keystore.Store) (keystore.Head, []keystore.Sidecar, error) {
	head, list, next, err := s.Sidecars(ctx, keystore.Page{Limit: 1000})
	if err == nil && next != "" {
		err = errors.New("there are more sidecars than a page holds")
	}
	return head, list, err
}

func (e *env) sidecars() (keystore.Head, []keystore.Sidecar) {
	e.Helper()
	head, list, err := listSidecars(e.ctx, e.Store)
	e.ok(err)
	return head, list
}

func (e *env) sidecar(name string) keystore.Sidecar {
	e.Helper()
	s, ok := e.listed(name)
	if !ok {
		e.Fatalf("%s is not on record", name)
	}
	return s
}

func (e *env) listed(name string) (s keystore.Sidecar, ok bool) {
	e.Helper()
	_, list := e.sidecars()
	i := slices.IndexFunc(list, func(s keystore.Sidecar) bool { return s.Name == name })
	if i < 0 {
		return s, false
	}
	return list[i], true
}

// numberless is the sidecar without the number of its last poll.
func (e *env) numberless(name string) keystore.Sidecar {
	e.Helper()
	s := e.sidecar(name)
	s.Poll = 0
	return s
}

// sidecarNames checks the names of the sidecars that are listed.
func (e *env) sidecarNames(want ...string) {
	e.Helper()
	head, list := e.sidecars()
	e.sameHead(head)
	got := []string{}
	for _, s := range list {
		got = append(got, s.Name)
	}
	e.same("sidecars", got, append([]string{}, want...))
}

func testSidecars(e *env) {
	e.account()
	epoch := e.head().Epoch
	e.sidecarNames()
	e.poll(keystore.Poll{Sidecar: "c", Epoch: epoch, Lease: time.Minute, MaxStale: time.Hour})
	e.poll(keystore.Poll{Sidecar: "a", Epoch: epoch, Lease: time.Minute})
	e.poll(keystore.Poll{Sidecar: "b", Epoch: epoch, Lease: time.Minute, MaxStale: time.Minute})
	e.sidecarNames("a", "b", "c")
	e.harness.Advance(time.Minute + time.Millisecond)
	e.sidecarNames("b", "c") // listed until the stale time ends
	e.ok(e.record(keystore.Poll{Sidecar: "c", Leave: true, Lease: time.Minute}))
	e.sidecarNames("b")
	e.harness.Advance(time.Minute)
	e.sidecarNames()
	e.poll(keystore.Poll{Sidecar: "a", Epoch: epoch, Lease: time.Minute})
	e.sidecarNames("a")
	e.same("revision", e.head().Revision, int64(1))
}

func testPolls(e *env) {
	e.account()
	e.account()
	p := keystore.Poll{Sidecar: "s", Epoch: e.head().Epoch, Revision: 1, Lease: 15*time.Second + 1, MaxStale: time.Hour + 1}
	now := e.head().Now
	e.nothing(func() { e.poll(p) })
	first := e.numberless("s")
	e.same("revision", first.Revision, int64(1))
	e.around("lease end", first.LeaseEndsAt, now.Add(p.Lease))
	e.around("stale end", first.StaleEndsAt, now.Add(p.Lease+p.MaxStale))

	// The revision and the times do not decrease.
	p.Revision, p.Lease, p.MaxStale = 0, time.Second, 0
	e.ok(e.record(p))
	e.same("after a smaller poll", e.numberless("s"), first)
	e.harness.Advance(-time.Hour)
	p.Revision, p.Lease, p.MaxStale = 2, 15*time.Second, time.Hour
	e.ok(e.record(p))
	first.Revision = 2
	e.same("after the clock was set back", e.numberless("s"), first)
	e.harness.Advance(time.Hour + time.Minute)
	e.poll(p)
	if !e.sidecar("s").LeaseEndsAt.After(first.LeaseEndsAt) {
		e.Fatal("the lease was not renewed")
	}
}

func testConcurrentPolls(e *env) {
	e.account()
	epoch := e.head().Epoch
	var g errgroup.Group
	const sidecars, each = 100, 5
	for i := range sidecars {
		g.Go(func() error {
			p := keystore.Poll{Sidecar: fmt.Sprintf("s%02d", i), Epoch: epoch, Lease: time.Minute}
			for n := range each {
				p.Revision = int64(n / (each - 1)) // 1 in the last poll
				if err := e.record(p); err != nil {
					return err
				}
				if i%10 == 0 { // among those that succeed
					wrong := keystore.Poll{Sidecar: "wrong", Epoch: epoch, Revision: 99, Lease: time.Minute}
					if err := e.record(wrong); !errors.Is(err, keystore.ErrGone) {
						return fmt.Errorf("beyond the head: %w", err)
					}
				}
			}
			return nil
		})
	}
	e.ok(g.Wait())
	_, list := e.sidecars()
	e.same("sidecars on record", len(list), sidecars)
	for i, s := range list {
		if s.Name != fmt.Sprintf("s%02d", i) || s.Revision != 1 {
			e.Fatalf("sidecar %d is %+v", i, s)
		}
	}
}

func testPollRefusals(e *env) {
	e.account()
	head := e.head()
	e.poll(keystore.Poll{Sidecar: "known", Epoch: head.Epoch, Lease: time.Minute})
	known := e.numberless("known")
	e.harness.Advance(time.Second)
	for _, bad := range []keystore.Poll{
		{Epoch: head.Epoch, Revision: -1},
		{Epoch: "", Revision: 1},
		{Epoch: head.Epoch + "x", Revision: 1},
		{Epoch: head.Epoch, Revision: head.Revision + 1},
	} {
		bad.Lease, bad.MaxStale = time.Minute, time.Minute
		for _, bad.Sidecar = range []string{"known", "unknown"} {
			e.nothing(func() { e.is(e.record(bad), keystore.ErrGone) })
		}
	}
	e.sidecarNames("known")
	e.same("the one that is known", e.numberless("known"), known)
}

// testPollNumbers: a number that is not larger than the one on record is refused, and nothing is recorded. The number of
// every other poll is recorded.
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
	e.same("after the refused polls", e.sidecar("s"), first)

	e.is(e.record(poll(9, 3)), keystore.ErrGone) // beyond the head
	first.Poll = 9
	e.same("after a poll without a lease", e.sidecar("s"), first)
	e.conflict(e.record(poll(9, 2)))
	e.ok(e.record(poll(1<<62, 2)))
	e.conflict(e.record(poll(1<<62, 2)))
	e.Store = e.harness.Reopen()
	e.conflict(e.record(poll(1<<62, 2)))

	// The number counts after the sidecar's time too, because a frozen process may continue.
	e.harness.Advance(time.Hour)
	e.conflict(e.record(poll(8, 2)))
	e.ok(e.record(poll(1<<62+1, 2)))
}

// refused checks that every poll of the sidecar s is refused, whatever its number, and that another leave is not.
func (e *env) refused(epoch string) {
	e.Helper()
	const name = "s"
	for _, number := range []int64{1, 0, 1 << 40} {
		for _, revision := range []int64{-1, 1} {
			p := keystore.Poll{Sidecar: name, Number: number, Epoch: epoch, Revision: revision, Lease: time.Hour}
			e.nothing(func() { e.conflict(e.record(p)) })
		}
	}
	if s, ok := e.listed(name); ok {
		e.Fatalf("%s is listed: %+v", name, s)
	}
	e.nothing(func() { e.ok(e.record(keystore.Poll{Sidecar: name, Lease: time.Hour, Leave: true})) })
	_, err := e.Forget(e.ctx, actor, name)
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

// testLeave: no change waits for a sidecar that has left. Its polls are refused until its stale time ends.
func testLeave(e *env) {
	a := e.account()
	epoch := e.head().Epoch
	p := keystore.Poll{Sidecar: "s", Epoch: epoch, Revision: 1, Lease: time.Minute, MaxStale: time.Hour}
	e.poll(p)
	e.key(a.ID)
	e.waitsFor("s")

	p.Leave, p.Epoch, p.Revision, p.MaxStale = true, "another", -9, 5*time.Hour
	p.Number = lastPoll.Add(1)
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

	// The same holds for a record whose time is over.
	e.harness.Advance(time.Minute + time.Second)
	e.ok(e.record(leave))
	e.harness.Advance(time.Hour)
	e.refused(epoch)
}

// testForget: no change waits for a sidecar that an operator has forgotten.
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
