package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// conflictOf checks that the error is a Conflict with that message.
func (e *env) conflictOf(err error, message string) {
	e.Helper()
	var c *keystore.Conflict
	if !errors.As(err, &c) || c.Message != message {
		e.Fatalf("got error %v, want the Conflict %q", err, message)
	}
}

// rollTo rolls the key without looking at the effect.
func (e *env) rollTo(id string, grace time.Duration) (next, replaced keystore.Key) {
	e.Helper()
	next, replaced, err := e.RollKey(e.ctx, actor, e.roll(id, grace))
	e.ok(err)
	return next, replaced
}

// inForce lists the ids of the account's keys that a sidecar lets in, in the order of creation.
func (e *env) inForce(account string) (ids []string) {
	e.Helper()
	now := e.head().Now
	list, next, err := e.Keys(e.ctx, account, keystore.Page{Limit: 1000})
	e.ok(err)
	e.same("next page", next, "")
	for _, k := range list {
		fact := e.fact(k.Digest).Record
		if fact.State == credential.Active && (fact.ExpiresAt.IsZero() || now.Before(fact.ExpiresAt)) {
			ids = append(ids, k.ID)
		}
	}
	return ids
}

// testRollChain: a roll revokes what an earlier roll has left in its grace. Each key that it
// revokes is in the log, the rolled one last, and the roll is the one event.
func testRollChain(e *env) {
	a := e.account()
	first := e.key(a.ID, "s")
	other := e.key(a.ID) // another chain is not touched
	second, _ := e.rollTo(first.ID, time.Hour)
	e.same("in force after the first roll", e.inForce(a.ID), []string{first.ID, other.ID, second.ID})

	roll := e.roll(second.ID, time.Hour)
	now := e.head().Now
	var third, replaced keystore.Key
	got := e.effect(func() {
		var err error
		third, replaced, err = e.RollKey(e.ctx, actor, roll)
		e.ok(err)
	})
	e.same("changes", got.changes, []keystore.Change{
		{Revision: third.Revision, Digest: third.Digest},
		{Revision: third.Revision + 1, Digest: first.Digest},
		{Revision: replaced.Revision, Digest: second.Digest},
	})
	e.same("the newest revision", replaced.Revision, e.head().Revision)
	e.logged(got, now, keystore.Event{Action: keystore.KeyRoll, Account: a.ID, Key: second.ID, Detail: map[string]string{
		"successor": third.ID, "grace_seconds": "3600", "revoked": first.ID,
	}})
	e.same("in force after the second roll", e.inForce(a.ID), []string{other.ID, second.ID, third.ID})
	ended, err := e.Key(e.ctx, first.ID)
	e.ok(err)
	e.around("the end of the first key", ended.RevokedAt, now)
	e.same("first key", [3]string{ended.State.String(), ended.ReplacedBy, ended.Chain}, [3]string{"revoked", second.ID, first.ID})
	e.same("its revision", ended.Revision, third.Revision+1)
	e.reads(ended)
	e.reads(third)
	e.reads(replaced)

	// A grace that is over needs no revocation.
	e.harness.Advance(time.Hour + time.Millisecond)
	var fourth keystore.Key
	got = e.effect(func() { fourth, _ = e.rollTo(third.ID, 0) })
	e.same("changes", len(got.changes), 2)
	e.same("in force at the end", e.inForce(a.ID), []string{other.ID, fourth.ID})
	untouched, err := e.Key(e.ctx, other.ID)
	e.ok(err)
	e.same("the key of another chain", untouched, other)
}

// testRollReplaced: of the reasons to refuse a roll, revoked comes first, then expired, then replaced.
func testRollReplaced(e *env) {
	a := e.account()
	old := e.key(a.ID)
	next, _ := e.rollTo(old.ID, time.Hour)
	refused := func(message string) {
		e.Helper()
		e.nothing(func() {
			_, _, err := e.RollKey(e.ctx, actor, e.roll(old.ID, 0))
			e.conflictOf(err, message)
		})
	}
	refused("Key has been replaced by " + next.ID)
	e.harness.Advance(time.Hour + time.Millisecond)
	refused("API key has expired: " + old.ID)
	_, err := e.RevokeKey(e.ctx, actor, old.ID, "")
	e.ok(err)
	refused("API key has been revoked: " + old.ID)
	e.setState(a, credential.Terminated)
	refused("API key has been revoked: " + old.ID)

	b := e.account()
	old = e.key(b.ID)
	next, _ = e.rollTo(old.ID, time.Hour)
	e.setState(b, credential.Terminated)
	refused("Key has been replaced by " + next.ID)
}

const manyRolls = 500

// testRollsInARow: however often a key is rolled, two keys of its chain are in force.
func testRollsInARow(e *env) {
	a := e.account()
	first := e.key(a.ID, "chat:companion")
	last, before := first, first
	for range manyRolls {
		before = last
		last, _ = e.rollTo(last.ID, 7*24*time.Hour)
	}
	e.same("in force", e.inForce(a.ID), []string{before.ID, last.ID})
	e.same("chain", last.Chain, first.ID)
	_, _, err := e.RollKey(e.ctx, actor, e.roll(first.ID, time.Hour))
	e.conflictOf(err, "API key has been revoked: "+first.ID)
	done, err := e.RevokeChain(e.ctx, actor, first.ID, a.ID)
	e.ok(err)
	e.same("revoked", done.Revoked, []string{before.ID, last.ID})
	e.same("in force after the chain was revoked", len(e.inForce(a.ID)), 0)
}

// testRollsAtOnce: of many rolls of one key one is made.
func testRollsAtOnce(e *env) {
	a := e.account()
	key := e.key(a.ID, "chat:companion")
	for range 3 {
		var g errgroup.Group
		made := make(chan keystore.Key, manyRolls)
		rolls := make([]keystore.Roll, manyRolls/10)
		for i := range rolls {
			rolls[i] = e.roll(key.ID, time.Hour)
		}
		for _, r := range rolls {
			g.Go(func() error {
				next, _, err := e.RollKey(e.ctx, actor, r)
				var c *keystore.Conflict
				if errors.As(err, &c) && strings.HasPrefix(c.Message, "Key has been replaced by ") {
					return nil
				}
				made <- next
				return err
			})
		}
		e.ok(g.Wait())
		e.same("rolls that were made", len(made), 1)
		next := <-made
		e.same("in force", e.inForce(a.ID), []string{key.ID, next.ID})
		key = next
	}
}

func testRevokeChain(e *env) {
	a, b := e.account(), e.account()
	first := e.key(a.ID)
	other := e.key(a.ID)
	second, _ := e.rollTo(first.ID, time.Minute)
	e.harness.Advance(2 * time.Minute) // first has expired, and is not revoked
	third, _ := e.rollTo(second.ID, time.Hour)
	e.nothing(func() {
		_, err := e.RevokeChain(e.ctx, actor, first.ID, b.ID)
		e.is(err, keystore.ErrNotFound)
		_, err = e.RevokeChain(e.ctx, actor, "key_none", "")
		e.is(err, keystore.ErrNotFound)
	})
	now := e.head().Now
	var done keystore.RevokedChain
	got := e.effect(func() {
		var err error
		done, err = e.RevokeChain(e.ctx, actor, second.ID, a.ID)
		e.ok(err)
	})
	head := e.head().Revision
	e.same("revoked", done.Revoked, []string{first.ID, second.ID, third.ID})
	e.same("revision", done.Revision, head)
	e.same("changes", got.changes, []keystore.Change{
		{Revision: head - 2, Digest: first.Digest}, {Revision: head - 1, Digest: second.Digest}, {Revision: head, Digest: third.Digest},
	})
	e.same("events", len(got.events), 3)
	for i, k := range []keystore.Key{third, second, first} { // newest first
		e.logged(effect{events: got.events[i : i+1]}, now, keystore.Event{Action: keystore.KeyRevoke, Account: a.ID, Key: k.ID})
	}
	e.around("revoked", done.Key.RevokedAt, now)
	e.same("key", [2]string{done.Key.ID, done.Key.State.String()}, [2]string{second.ID, "revoked"})
	e.reads(done.Key)
	e.same("in force", e.inForce(a.ID), []string{other.ID})

	e.harness.Advance(time.Minute)
	for _, id := range []string{first.ID, second.ID, third.ID} {
		e.nothing(func() {
			again, err := e.RevokeChain(e.ctx, actor, id, "")
			e.ok(err)
			e.same("revoked again", again.Revoked, []string{})
			e.same("revision", again.Revision, head)
			e.same("key", again.Key.ID, id)
			e.reads(again.Key)
		})
	}

	// What is revoked already is not named, and a terminated account does not matter.
	first = e.key(a.ID)
	second, _ = e.rollTo(first.ID, 0)
	e.setState(a, credential.Terminated)
	done, err := e.RevokeChain(e.ctx, actor, first.ID, "")
	e.ok(err)
	e.same("revoked", done.Revoked, []string{second.ID})
	e.same("key", done.Key.State, credential.Revoked)
	e.same("revision", done.Revision, e.head().Revision)
}

func testRevokeChainOfOne(e *env) {
	a := e.account()
	k := e.key(a.ID)
	var done keystore.RevokedChain
	e.one(func() int64 {
		var err error
		done, err = e.RevokeChain(e.ctx, actor, k.ID, "")
		e.ok(err)
		return done.Revision
	}, keystore.Change{Digest: k.Digest}, keystore.Event{Action: keystore.KeyRevoke, Account: a.ID, Key: k.ID})
	e.same("revoked", done.Revoked, []string{k.ID})
	e.reads(done.Key)
	e.nothing(func() {
		again, err := e.RevokeChain(e.ctx, actor, k.ID, "")
		e.ok(err)
		e.same("again", again, keystore.RevokedChain{Key: done.Key, Revoked: []string{}, Revision: done.Revision})
	})
}

// testScopesOfChain: a grant and its end are of one key alone.
func testScopesOfChain(e *env) {
	a := e.account()
	old := e.key(a.ID, "s")
	next, old := e.rollTo(old.ID, time.Hour)
	for _, scope := range []string{"s", "t"} {
		k, err := e.SetKeyScope(e.ctx, actor, old.ID, scope, scope == "t")
		e.ok(err)
		e.reads(k)
		e.same("the replaced key is still one", [2]string{k.ReplacedBy, k.Chain}, [2]string{next.ID, old.ID})
	}
	e.same("scopes of the replaced key", e.fact(old.Digest).Record.Scopes, credential.NewScopes("t"))
	e.reads(next)
}

func testScopesUpToBound(e *env) {
	a := e.account()
	names := make([]string, credential.MaxScopes)
	for i := range names {
		names[i] = fmt.Sprint("scope_", i)
	}
	k := e.key(a.ID, names[1:]...)
	k, err := e.SetKeyScope(e.ctx, actor, k.ID, names[0], true)
	e.ok(err)
	e.same("scopes", k.Scopes.Len(), credential.MaxScopes)
	e.nothing(func() {
		_, err := e.SetKeyScope(e.ctx, actor, k.ID, "one_more", true)
		e.conflict(err)
		again, err := e.SetKeyScope(e.ctx, actor, k.ID, names[7], true)
		e.ok(err)
		e.same("one that it has", again, k)
	})
	k, err = e.SetKeyScope(e.ctx, actor, k.ID, names[0], false)
	e.ok(err)
	k, err = e.SetKeyScope(e.ctx, actor, k.ID, "one_more", true)
	e.ok(err)
	if !slices.Contains(k.Scopes.List(), "one_more") {
		e.Fatalf("scopes are %v", k.Scopes)
	}
}
