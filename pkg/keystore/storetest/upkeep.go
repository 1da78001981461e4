package storetest

import (
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

func testSidecars(e *env) {
	e.account()
	epoch := e.head().Epoch
	names := func(want ...string) {
		e.Helper()
		head, list, err := allSidecars(e.ctx, e.Store)
		e.ok(err)
		e.same("revision", head.Revision, int64(1))
		got := []string{}
		for _, s := range list {
			got = append(got, s.Name)
		}
		e.same("sidecars", got, append([]string{}, want...))
	}
	names()
	e.poll(keystore.Poll{Sidecar: "c", Epoch: epoch, Lease: time.Minute, MaxStale: time.Hour})
	e.poll(keystore.Poll{Sidecar: "a", Epoch: epoch, Lease: time.Minute})
	e.poll(keystore.Poll{Sidecar: "b", Epoch: epoch, Lease: time.Minute, MaxStale: time.Minute})
	names("a", "b", "c")
	e.harness.Advance(time.Minute + time.Millisecond)
	names("b", "c") // a lease that is over is listed while its stale time is not
	e.ok(e.record(keystore.Poll{Sidecar: "c", Leave: true, Lease: time.Minute}))
	names("b")
	e.harness.Advance(time.Minute)
	names()
	e.poll(keystore.Poll{Sidecar: "a", Epoch: epoch, Lease: time.Minute})
	names("a")
}

func testPrune(e *env) {
	a := e.account()
	k := e.key(a.ID)
	short, ended, long := e.session(a.ID, time.Minute), e.session(a.ID, time.Minute), e.session(a.ID, 24*time.Hour)
	_, err := e.EndSession(e.ctx, actor, ended.ID)
	e.ok(err)
	epoch := e.head().Epoch
	e.poll(keystore.Poll{Sidecar: "s", Epoch: epoch, Lease: time.Minute})

	oldest := func(want int64) {
		e.Helper()
		e.logFrom(epoch, want)
	}
	prune := func() {
		e.Helper()
		before, events := e.head().Revision, len(e.events())
		e.ok(e.Prune(e.ctx, time.Hour))
		e.same("revision", e.head().Revision, before)
		e.same("events", len(e.events()), events)
	}
	prune()
	oldest(0)
	e.harness.Advance(30 * time.Minute)
	e.key(a.ID) // revision 4
	e.key(a.ID)
	prune()
	oldest(0) // expired, but young
	e.same("an expired session", e.fact(short.Digest).Found, true)

	e.harness.Advance(45 * time.Minute)
	prune()
	oldest(3)
	e.same("a session long over", e.fact(short.Digest).Found, false)
	e.same("one that was ended", e.fact(ended.Digest).Found, false)
	_, err = e.EndSession(e.ctx, actor, short.ID)
	e.is(err, keystore.ErrNotFound)
	e.same("one that lives", e.fact(long.Digest).Found, true)

	e.harness.Advance(24 * 365 * time.Hour)
	prune()
	oldest(4) // the newest row stays
	prune()
	oldest(4)
	e.reads(k)
	e.same("next revision", e.key(a.ID).Revision, int64(6))
	e.poll(keystore.Poll{Sidecar: "s", Epoch: epoch, Revision: 6, Lease: time.Minute})
	prune()
	e.sidecar("s")
}

// logFrom checks that the log reaches back to that revision and not beyond.
func (e *env) logFrom(epoch string, revision int64) {
	e.Helper()
	if revision > 0 {
		_, _, err := e.Changes(e.ctx, epoch, revision-1, 10)
		e.is(err, keystore.ErrGone)
	}
	_, changes, err := e.Changes(e.ctx, epoch, revision, 100)
	e.ok(err)
	e.same("changes still there", len(changes), int(e.head().Revision-revision))
}

func testNewEpoch(e *env) {
	e.account()
	e.account()
	e.ok(e.record(keystore.Poll{Sidecar: "s", Epoch: e.head().Epoch, Revision: 1, Lease: time.Minute}))
	sidecar, old := e.sidecar("s"), e.head()
	var head keystore.Head
	e.nothingIn(func() {
		var err error
		head, err = e.NewEpoch(e.ctx, time.Hour+1)
		e.ok(err)
	})
	e.around("not before", head.NotBefore, old.Now.Add(time.Hour))
	if head.NotBefore.Before(old.Now.Add(time.Hour + 1)) {
		e.Fatalf("not before %v is sooner than %v and the wait", head.NotBefore, old.Now)
	}
	if head.Epoch == old.Epoch || head.Epoch == "" || head.Revision != old.Revision {
		e.Fatalf("from %+v to %+v", old, head)
	}
	_, _, err := e.Changes(e.ctx, old.Epoch, old.Revision, 10)
	e.is(err, keystore.ErrGone)
	e.is(e.record(keystore.Poll{Sidecar: "s", Epoch: old.Epoch, Revision: 1}), keystore.ErrGone)
	_, changes, err := e.Changes(e.ctx, head.Epoch, 2, 10)
	e.ok(err)
	e.same("changes", len(changes), 0)
	sidecar.Poll++ // of the poll that was refused
	e.same("the sidecar that was known", e.sidecar("s"), sidecar)
	e.poll(keystore.Poll{Sidecar: "s", Epoch: head.Epoch, Revision: 2, Lease: 2 * time.Minute})

	// Unknown sidecars of the first time may still be there.
	again, err := e.NewEpoch(e.ctx, time.Minute)
	e.ok(err)
	e.same("not before, again", again.NotBefore, head.NotBefore)
	later, err := e.NewEpoch(e.ctx, 2*time.Hour)
	e.ok(err)
	e.around("not before, later", later.NotBefore, old.Now.Add(2*time.Hour))
	if again.Epoch == head.Epoch || later.Epoch == again.Epoch {
		e.Fatal("an epoch came twice")
	}
	got, facts, err := e.Resolve(e.ctx, nil)
	e.ok(err)
	e.same("facts", len(facts), 0)
	e.same("not before, told by resolve", got.NotBefore, later.NotBefore)
	e.same("epoch, told by resolve", got.Epoch, later.Epoch)
	e.same("next revision", e.account().Revision, int64(3))
}

// testLargestGrant: a new epoch waits for the largest lease and stale time that was ever given, even if
// the wait that is asked for is smaller, until it is over.
func testLargestGrant(e *env) {
	e.account()
	waits := func(what string, want time.Duration) {
		e.Helper()
		now := e.head().Now
		head, err := e.NewEpoch(e.ctx, time.Second)
		e.ok(err)
		if d := head.NotBefore.Sub(now.Add(want)); d.Abs() > 5*time.Second {
			e.Fatalf("%s: not before %v, at %v; want a wait of %v", what, head.NotBefore, now, want)
		}
	}
	given := func(name string, stale time.Duration) {
		e.Helper()
		e.ok(e.record(keystore.Poll{Sidecar: name, Epoch: e.head().Epoch, Revision: 1, Lease: time.Minute, MaxStale: stale}))
	}
	waits("before any poll", time.Second)
	e.harness.Advance(time.Minute)
	given("a", 5*time.Minute)
	given("b", 3*time.Minute)
	waits("after two polls", 6*time.Minute)

	e.harness.Advance(4 * time.Minute)
	given("a", 5*time.Minute) // again: its time counts from now
	given("b", 3*time.Minute)
	e.harness.Advance(5 * time.Minute)
	given("b", 3*time.Minute)
	e.Store = e.harness.Reopen()
	waits("while the last of them is not over", 6*time.Minute)

	e.harness.Advance(time.Minute)
	given("d", 4*time.Minute+30*time.Second)
	e.harness.Advance(90 * time.Second)
	given("c", 0)
	waits("when it is over, and d was given less and holds it still", 4*time.Minute)
	given("c", 6*time.Hour)
	waits("after a larger one", 6*time.Hour+time.Minute)
	e.is(e.record(keystore.Poll{Sidecar: "c", Epoch: "other", Lease: time.Minute, MaxStale: 9 * time.Hour}), keystore.ErrGone)
	e.harness.Advance(time.Hour)
	waits("after one that was not given", 6*time.Hour+time.Minute)
}

// nothingIn is nothing for what changes the epoch.
func (e *env) nothingIn(do func()) {
	e.Helper()
	revision, events := e.head().Revision, len(e.events())
	do()
	if e.head().Revision != revision || len(e.events()) != events {
		e.Fatal("it raised the revision or wrote an event")
	}
}

func testReopen(e *env) {
	a := e.account()
	k, s := e.key(a.ID, "x"), e.session(a.ID, time.Hour)
	e.ok(e.RecordUsage(e.ctx, "s", []keystore.Usage{{Digest: k.Digest, LastUsedAt: e.head().Now}}))
	_, err := e.NewEpoch(e.ctx, time.Hour)
	e.ok(err)
	before := e.head()
	e.ok(e.record(keystore.Poll{Sidecar: "s", Epoch: before.Epoch, Revision: 2, Lease: time.Minute, MaxStale: time.Minute}))
	sidecar, fact, session, events := e.sidecar("s"), e.fact(k.Digest), e.fact(s.Digest), e.events()
	k, err = e.Key(e.ctx, k.ID)
	e.ok(err)
	_, cursor, err := e.Events(e.ctx, "", "", keystore.Page{Limit: 1})
	e.ok(err)
	_, changes, err := e.Changes(e.ctx, before.Epoch, 0, 10)
	e.ok(err)

	e.Store = e.harness.Reopen()
	e.ok(e.Ping(e.ctx))
	after := e.head()
	after.Now = before.Now
	e.same("head", after, before)
	e.same("sidecar", e.sidecar("s"), sidecar)
	e.same("fact about the key", e.fact(k.Digest), fact)
	e.same("fact about the session", e.fact(s.Digest), session)
	e.same("events", e.events(), events)
	e.reads(k)
	_, got, err := e.Changes(e.ctx, before.Epoch, 0, 10)
	e.ok(err)
	e.same("changes", got, changes)
	rest, _, err := e.Events(e.ctx, "", "", keystore.Page{Limit: 100, After: cursor})
	e.ok(err)
	e.same("events after a cursor from before", rest, events[1:])
	e.same("next revision", e.key(a.ID).Revision, before.Revision+1)
}
