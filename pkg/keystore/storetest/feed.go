package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

func isCursor(err error) bool { return errors.Is(err, keystore.ErrCursor) }

func testChanges(e *env) {
	empty := e.head()
	if empty.Epoch == "" || empty.Revision != 0 || !empty.NotBefore.IsZero() {
		e.Fatalf("the head of an empty store is %+v", empty)
	}
	all := []keystore.Change{}
	window := func(after int64, limit int, want []keystore.Change) {
		e.Helper()
		head, got, err := e.Changes(e.ctx, empty.Epoch, after, limit)
		e.ok(err)
		e.same(fmt.Sprintf("changes after %d, at most %d", after, limit), got, want)
		e.same("head", head.Revision, int64(len(all)))
	}
	window(0, 10, all)
	a := e.account()
	all = append(all, keystore.Change{Revision: 1, Account: a.ID})
	for i := range 5 {
		all = append(all, keystore.Change{Revision: int64(i + 2), Digest: e.key(a.ID).Digest})
	}
	e.setState(a, credential.Terminated)
	all = append(all, keystore.Change{Revision: 7, Account: a.ID})
	for after := range len(all) + 1 {
		for limit := 1; limit <= len(all)+1; limit++ {
			window(int64(after), limit, all[after:min(after+limit, len(all))])
		}
	}
	gone := func(epoch string, after int64) {
		e.Helper()
		head, _, err := e.Changes(e.ctx, epoch, after, 10)
		e.is(err, keystore.ErrGone)
		e.same("the head with ErrGone", head.Revision, int64(len(all)))
		e.same("the epoch with ErrGone", head.Epoch, empty.Epoch)
	}
	gone("", 0)
	gone(empty.Epoch+"x", 7)
	gone(empty.Epoch, 8)
	gone(empty.Epoch, -1)
}

func testChanged(e *env) {
	a := e.account()
	k, s := e.key(a.ID), e.session(a.ID, time.Hour)
	wakes := func(what string, do func()) {
		e.Helper()
		changed := e.Changed()
		select {
		case <-changed:
			e.Fatalf("%s: the channel was closed before", what)
		default:
		}
		do()
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			e.Fatalf("%s woke nobody", what)
		}
	}
	poll := keystore.Poll{Sidecar: "s", Epoch: e.head().Epoch, Lease: time.Second}
	wakes("a mint", func() { e.key(a.ID) })
	wakes("a roll", func() { e.rolled(k, 0) })
	wakes("a session's end", func() { _, err := e.EndSession(e.ctx, actor, s.ID); e.ok(err) })
	wakes("a termination", func() { e.setState(a, credential.Terminated) })
	wakes("a first poll", func() { e.ok(e.record(poll)) })
	poll.Revision = e.head().Revision
	wakes("an acknowledgement", func() { e.ok(e.record(poll)) })
	poll.Leave = true
	wakes("a sidecar's leave", func() { e.ok(e.record(poll)) })
	poll.Sidecar, poll.Leave = "t", false
	e.ok(e.record(poll))
	wakes("a forgotten sidecar", func() { _, err := e.Forget(e.ctx, actor, "t"); e.ok(err) })
	wakes("a new epoch", func() { _, err := e.NewEpoch(e.ctx, 0); e.ok(err) })
}

// polls is the number of the last poll of all tests.
var polls atomic.Int64

// record records a poll, with the next number unless it has one. An answer carries as much as is
// wanted unless the poll says otherwise.
func (e *env) record(p keystore.Poll) error { return record(e.ctx, e.Store, p) }

func record(ctx context.Context, s keystore.Store, p keystore.Poll) error {
	if p.Limit == 0 {
		p.Limit = 1000
	}
	if p.Number == 0 {
		p.Number = polls.Add(1)
	}
	_, _, err := s.RecordPoll(ctx, p)
	return err
}

// poll records a poll and checks that the lease on record begins not before the call.
func (e *env) poll(p keystore.Poll) {
	e.Helper()
	before := e.head().Now
	e.ok(e.record(p))
	_, sidecars, err := allSidecars(e.ctx, e.Store)
	e.ok(err)
	for _, s := range sidecars {
		if s.Name == p.Sidecar {
			if s.LeaseEndsAt.Before(before.Add(p.Lease)) || s.StaleEndsAt.Before(before.Add(p.Lease+p.MaxStale)) || s.Revision < p.Revision {
				e.Fatalf("recorded %+v, for a poll after %v: %+v", s, before, p)
			}
			return
		}
	}
	if p.Lease+p.MaxStale > 0 {
		e.Fatalf("%s is not on record", p.Sidecar)
	}
}

// allSidecars lists all of them, who are not more than a page holds.
func allSidecars(ctx context.Context, s keystore.Store) (keystore.Head, []keystore.Sidecar, error) {
	head, list, next, err := s.Sidecars(ctx, keystore.Page{Limit: 1000})
	if err == nil && next != "" {
		err = errors.New("there are more sidecars than a page holds")
	}
	return head, list, err
}

func (e *env) sidecar(name string) keystore.Sidecar {
	e.Helper()
	_, sidecars, err := allSidecars(e.ctx, e.Store)
	e.ok(err)
	for _, s := range sidecars {
		if s.Name == name {
			return s
		}
	}
	e.Fatalf("%s is not on record", name)
	return keystore.Sidecar{}
}

// numberless is the sidecar without the number of its last poll.
func (e *env) numberless(name string) keystore.Sidecar {
	e.Helper()
	s := e.sidecar(name)
	s.Poll = 0
	return s
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

	// Neither the revision nor the times go back.
	p.Revision, p.Lease, p.MaxStale = 0, time.Second, 0
	e.ok(e.record(p))
	e.same("after a lesser poll", e.numberless("s"), first)
	e.harness.Advance(-time.Hour)
	p.Revision, p.Lease, p.MaxStale = 2, 15*time.Second, time.Hour
	e.ok(e.record(p))
	first.Revision = 2
	e.same("after the clock was put back", e.numberless("s"), first)
	e.harness.Advance(time.Hour + time.Minute)
	e.poll(p)
	if !e.sidecar("s").LeaseEndsAt.After(first.LeaseEndsAt) {
		e.Fatal("the lease was not renewed")
	}
}

func testPollsAtOnce(e *env) {
	e.account()
	epoch := e.head().Epoch
	var g errgroup.Group
	const sidecars, each = 100, 5
	for i := range sidecars {
		g.Go(func() error {
			p := keystore.Poll{Sidecar: fmt.Sprintf("s%02d", i), Epoch: epoch, Lease: time.Minute}
			for n := range each {
				p.Revision = int64(n / (each - 1)) // at last 1
				if err := e.record(p); err != nil {
					return err
				}
				if i%10 == 0 { // between those that are taken
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
	_, list, err := allSidecars(e.ctx, e.Store)
	e.ok(err)
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
	_, list, err := allSidecars(e.ctx, e.Store)
	e.ok(err)
	e.same("sidecars", len(list), 1)
	e.same("the one that is known", e.numberless("known"), known)
}
