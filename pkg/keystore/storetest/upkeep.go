package storetest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// prune prunes with a retention of an hour, and checks that nothing else changes.
func (e *env) prune() {
	e.Helper()
	before, events := e.head(), len(e.events())
	e.ok(e.Prune(e.ctx, time.Hour))
	e.sameHead(before)
	e.same("events", len(e.events()), events)
}

func testPrune(e *env) {
	a := e.account()
	k := e.key(a.ID)
	short, ended, long := e.session(a.ID, time.Minute), e.session(a.ID, time.Minute), e.session(a.ID, 24*time.Hour)
	e.end(ended.ID)
	epoch := e.head().Epoch
	e.poll(keystore.Poll{Sidecar: "s", Epoch: epoch, Lease: time.Minute})

	// logFrom prunes, and checks that the log reaches back to that revision and not beyond.
	logFrom := func(revision int64) {
		e.Helper()
		e.prune()
		if revision > 0 {
			_, _, err := e.Changes(e.ctx, epoch, revision-1, 10)
			e.is(err, keystore.ErrGone)
		}
		e.same("changes that stay", len(e.changes(revision)), int(e.head().Revision-revision))
	}
	logFrom(0)
	e.harness.Advance(30 * time.Minute)
	e.key(a.ID) // revision 4
	e.key(a.ID)
	logFrom(0) // expired, but young
	e.same("an expired session", e.fact(short.Digest).Found, true)

	e.harness.Advance(45 * time.Minute)
	logFrom(3)
	e.same("a session that expired long ago", e.fact(short.Digest).Found, false)
	e.same("one that was ended", e.fact(ended.Digest).Found, false)
	_, err := e.EndSession(e.ctx, actor, short.ID)
	e.is(err, keystore.ErrNotFound)
	e.same("one that has not expired", e.fact(long.Digest).Found, true)

	e.harness.Advance(24 * 365 * time.Hour)
	logFrom(4) // the newest row stays
	logFrom(4)
	e.reads(k)
	e.same("next revision", e.key(a.ID).Revision, int64(6))
	e.poll(keystore.Poll{Sidecar: "s", Epoch: epoch, Revision: 6, Lease: time.Minute})
	e.prune()
	e.sidecar("s")
}

func testNewEpoch(e *env) {
	e.account()
	e.account()
	e.ok(e.record(keystore.Poll{Sidecar: "s", Epoch: e.head().Epoch, Revision: 1, Lease: time.Minute}))
	sidecar, old, events := e.sidecar("s"), e.head(), len(e.events())
	head := e.newEpoch(time.Hour + 1)
	e.same("events", len(e.events()), events)
	e.around("not before", head.NotBefore, old.Now.Add(time.Hour))
	if head.NotBefore.Before(old.Now.Add(time.Hour + 1)) {
		e.Fatalf("not before %v is sooner than %v and the wait", head.NotBefore, old.Now)
	}
	if head.Epoch == old.Epoch || head.Epoch == "" || head.Revision != old.Revision {
		e.Fatalf("from %+v to %+v", old, head)
	}
	e.sameHead(head)
	_, _, err := e.Changes(e.ctx, old.Epoch, old.Revision, 10)
	e.is(err, keystore.ErrGone)
	e.is(e.record(keystore.Poll{Sidecar: "s", Epoch: old.Epoch, Revision: 1}), keystore.ErrGone)
	e.same("changes", len(e.changes(2)), 0)
	known := e.sidecar("s")
	if known.Poll <= sidecar.Poll {
		e.Fatal("the number of the refused poll is not on record")
	}
	sidecar.Poll = known.Poll
	e.same("the sidecar on record", known, sidecar)
	e.poll(keystore.Poll{Sidecar: "s", Epoch: head.Epoch, Revision: 2, Lease: 2 * time.Minute})

	// Sidecars that were unknown after the first one may still exist.
	again := e.newEpoch(time.Minute)
	e.same("not before, again", again.NotBefore, head.NotBefore)
	later := e.newEpoch(2 * time.Hour)
	e.around("not before, later", later.NotBefore, old.Now.Add(2*time.Hour))
	if again.Epoch == head.Epoch || later.Epoch == again.Epoch {
		e.Fatal("an epoch was repeated")
	}
	got, facts, err := e.Resolve(e.ctx, nil)
	e.ok(err)
	e.same("facts", len(facts), 0)
	e.same("not before in resolve", got.NotBefore, later.NotBefore)
	e.same("epoch in resolve", got.Epoch, later.Epoch)
	e.same("next revision", e.account().Revision, int64(3))
}

// testLargestGrant: a new epoch waits for the largest lease and stale time that was ever given, even if its own wait is
// smaller, until that is over.
func testLargestGrant(e *env) {
	e.account()
	waits := func(what string, want time.Duration) {
		e.Helper()
		now := e.head().Now
		head := e.newEpoch(time.Second)
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
	waits("when it is over, and d still holds a smaller one", 4*time.Minute)
	given("c", 6*time.Hour)
	waits("after a larger one", 6*time.Hour+time.Minute)
	e.is(e.record(keystore.Poll{Sidecar: "c", Epoch: "other", Lease: time.Minute, MaxStale: 9 * time.Hour}), keystore.ErrGone)
	e.harness.Advance(time.Hour)
	waits("after one that was not given", 6*time.Hour+time.Minute)
}

func testReopen(e *env) {
	a := e.account()
	k, s := e.key(a.ID, "x"), e.session(a.ID, time.Hour)
	e.used(k.Digest, 0, 0)
	e.newEpoch(time.Hour)
	before := e.head()
	e.ok(e.record(keystore.Poll{Sidecar: "s", Epoch: before.Epoch, Revision: 2, Lease: time.Minute, MaxStale: time.Minute}))
	sidecar, fact, session, events, changes := e.sidecar("s"), e.fact(k.Digest), e.fact(s.Digest), e.events(), e.changes(0)
	k = e.read(k.ID)
	_, cursor, err := e.Events(e.ctx, "", "", keystore.Page{Limit: 1})
	e.ok(err)

	e.Store = e.harness.Reopen()
	e.ok(e.Ping(e.ctx))
	e.sameHead(before)
	e.same("sidecar", e.sidecar("s"), sidecar)
	e.same("fact about the key", e.fact(k.Digest), fact)
	e.same("fact about the session", e.fact(s.Digest), session)
	e.same("events", e.events(), events)
	e.reads(k)
	e.same("changes", e.changes(0), changes)
	rest, _, err := e.Events(e.ctx, "", "", keystore.Page{Limit: 100, After: cursor})
	e.ok(err)
	e.same("events after a cursor from before", rest, events[1:])
	e.same("next revision", e.key(a.ID).Revision, before.Revision+1)
}

// RolledBefore are statements that fill a database of schema version 1, which had no columns for rolls: a was rolled to b and
// b to c; d was rolled twice, to e and f; g never.
func RolledBefore() []string {
	statements := []string{"INSERT INTO accounts (id, name, created_at, revision) VALUES ('acc_1', 'Ann', 1, 1)"}
	for i, id := range strings.Split("abcdefg", "") {
		statements = append(statements, fmt.Sprintf(
			"INSERT INTO keys (id, account, digest, label, hint, scopes, created_at, created_by, revision) SELECT '%s', seq, %s, 'x', '', '', 1, 'operator:x', %d FROM accounts",
			id, "DIGEST("+strings.Repeat(fmt.Sprintf("%02x", i), len(credential.Digest{}))+")", i+1))
	}
	for _, roll := range []string{"ab", "bc", "de", "df"} {
		statements = append(statements, fmt.Sprintf(
			`INSERT INTO events (at, actor, action, account, key, detail) VALUES (1, 'operator:x', 'key.roll', 'acc_1', '%s', '{"successor":"%s"}')`, roll[:1], roll[1:]))
	}
	return statements
}

// CheckRolledBefore checks the chains of RolledBefore in the newest schema.
func CheckRolledBefore(t *testing.T, s keystore.Store) {
	t.Helper()
	list, _, err := s.Keys(t.Context(), "acc_1", keystore.Page{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, k := range list {
		got = append(got, strings.Join([]string{k.ID, k.ReplacedBy, k.Chain}, ","))
	}
	if want := "a,b,a b,c,a c,,a d,f,d e,,d f,,d g,,"; strings.Join(got, " ") != want {
		t.Errorf("keys, successors, chains are %s, want %s", strings.Join(got, " "), want)
	}
}
