package storetest

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// rolled rolls the key and checks what all rolls have in common.
func (e *env) rolled(old keystore.Key, grace time.Duration) (next, replaced keystore.Key) {
	e.Helper()
	now := e.head().Now
	roll := e.newRoll(old.ID, grace)
	roll.Account = old.Account
	got := e.effect(func() {
		var err error
		next, replaced, err = e.RollKey(e.ctx, actor, roll)
		e.ok(err)
	})
	e.same("changes", got.changes, []keystore.Change{
		{Revision: next.Revision, Digest: next.Digest},
		{Revision: replaced.Revision, Digest: old.Digest},
	})
	e.logged(got, now, keystore.Event{Action: keystore.KeyRoll, Account: old.Account, Key: old.ID, Detail: map[string]string{
		"successor": next.ID, "grace_seconds": fmt.Sprint(grace.Seconds()),
	}})
	e.same("successor", next, keystore.Key{
		ID: roll.NewID, Account: old.Account, Digest: roll.Digest, Label: old.Label, Hint: roll.Hint, Scopes: old.Scopes,
		State: credential.Active, CreatedAt: next.CreatedAt, CreatedBy: actor, ExpiresAt: old.ExpiresAt, Chain: cmp.Or(old.Chain, old.ID),
		Revision: next.Revision,
	})
	e.same("replaced by", replaced.ReplacedBy, next.ID)
	e.same("chain", replaced.Chain, next.Chain)
	e.reads(next)
	e.reads(replaced)
	return next, replaced
}

func testRoll(e *env) {
	a := e.account()
	n := e.newKey(a.ID)
	n.Scopes, n.ExpiresAt, n.Limit = credential.NewScopes("x", "y"), e.head().Now.Add(time.Hour), 1
	old := e.create(n)
	e.harness.Advance(time.Minute)
	now := e.head().Now
	next, replaced := e.rolled(old, 0)

	e.around("created", next.CreatedAt, now)
	e.around("revoked", replaced.RevokedAt, now)
	want := old
	want.State, want.RevokedAt, want.Revision = credential.Revoked, replaced.RevokedAt, replaced.Revision
	want.ReplacedBy, want.Chain = next.ID, old.ID
	e.same("the old key", replaced, want)
	e.same("state of the old key's fact", e.fact(old.Digest).Record.State, credential.Revoked)
	fact := e.fact(next.Digest)
	if !fact.Found || fact.Record.State != credential.Active || !fact.Record.Scopes.Equal(old.Scopes) {
		e.Fatalf("the successor's fact is %+v", fact)
	}
}

func testRollGrace(e *env) {
	a := e.account()
	now := e.head().Now

	old := e.key(a.ID)
	next, replaced := e.rolled(old, time.Hour)
	e.around("the end of the grace", replaced.ExpiresAt, now.Add(time.Hour))
	e.same("state", replaced.State, credential.Active)
	e.same("expiry of the fact", e.fact(old.Digest).Record.ExpiresAt, replaced.ExpiresAt)
	e.same("the successor's expiry", next.ExpiresAt, time.Time{})

	sooner := e.expiring(a.ID, time.Minute)
	next, replaced = e.rolled(sooner, time.Hour)
	e.same("expiry of a key that expires sooner", replaced.ExpiresAt, sooner.ExpiresAt)
	e.same("expiry of its successor", next.ExpiresAt, sooner.ExpiresAt)

	later := e.expiring(a.ID, 24*time.Hour)
	next, replaced = e.rolled(later, time.Hour)
	e.around("the end of the grace", replaced.ExpiresAt, now.Add(time.Hour))
	e.same("expiry of its successor", next.ExpiresAt, later.ExpiresAt)
}

func testRollRefusals(e *env) {
	a, other, closing := e.account(), e.account(), e.account()
	k, revoked, s := e.key(a.ID), e.revoked(a.ID), e.session(a.ID, time.Hour)
	expired := e.expiring(a.ID, time.Minute)
	e.harness.Advance(time.Minute + time.Millisecond)
	orphan := e.key(closing.ID)
	e.setState(closing, credential.Terminated)

	roll := func(id string, set func(*keystore.Roll)) error {
		r := e.newRoll(id, 0)
		set(&r)
		_, _, err := e.RollKey(e.ctx, actor, r)
		return err
	}
	plain := func(*keystore.Roll) {}
	e.nothing(func() {
		e.is(roll("key_none", plain), keystore.ErrNotFound)
		e.is(roll(k.ID, func(r *keystore.Roll) { r.Account = other.ID }), keystore.ErrNotFound)
		e.conflict(roll(revoked.ID, plain))
		e.conflict(roll(expired.ID, plain))
		e.conflict(roll(orphan.ID, plain))
		e.conflict(roll(k.ID, func(r *keystore.Roll) { r.Digest = k.Digest }))
		e.conflict(roll(k.ID, func(r *keystore.Roll) { r.Digest = s.Digest }))
		e.conflict(roll(k.ID, func(r *keystore.Roll) { r.NewID = revoked.ID }))
	})
	for _, unchanged := range []keystore.Key{k, revoked, expired, orphan} {
		e.reads(unchanged)
	}
}

// inForce lists the ids of the account's keys that a sidecar allows, in the order of creation.
func (e *env) inForce(account string) (ids []string) {
	e.Helper()
	now := e.head().Now
	for _, k := range e.keys(account) {
		fact := e.fact(k.Digest).Record
		if fact.State == credential.Active && (fact.ExpiresAt.IsZero() || now.Before(fact.ExpiresAt)) {
			ids = append(ids, k.ID)
		}
	}
	return ids
}

// testRollChain: a roll revokes the key that an earlier roll left in its grace. Each key that it revokes is in the log, the
// rolled one last, and the roll is the only event.
func testRollChain(e *env) {
	a := e.account()
	first := e.key(a.ID, "s")
	other := e.key(a.ID) // of another chain
	second, _ := e.roll(first.ID, time.Hour)
	e.same("in force after the first roll", e.inForce(a.ID), []string{first.ID, other.ID, second.ID})

	now := e.head().Now
	var third, replaced keystore.Key
	got := e.effect(func() { third, replaced = e.roll(second.ID, time.Hour) })
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
	ended := e.read(first.ID)
	e.around("the end of the first key", ended.RevokedAt, now)
	e.same("first key", [3]string{ended.State.String(), ended.ReplacedBy, ended.Chain}, [3]string{"revoked", second.ID, first.ID})
	e.same("its revision", ended.Revision, third.Revision+1)
	for _, k := range []keystore.Key{ended, third, replaced} {
		e.reads(k)
	}

	// A key whose grace is over is not revoked.
	e.harness.Advance(time.Hour + time.Millisecond)
	var fourth keystore.Key
	got = e.effect(func() { fourth, _ = e.roll(third.ID, 0) })
	e.same("changes", len(got.changes), 2)
	e.same("in force at the end", e.inForce(a.ID), []string{other.ID, fourth.ID})
	e.same("the key of another chain", e.read(other.ID), other)
}

// testRollReplaced: of the reasons to refuse a roll, revoked comes first, then expired, then replaced.
func testRollReplaced(e *env) {
	a := e.account()
	old := e.key(a.ID)
	next, _ := e.roll(old.ID, time.Hour)
	refused := func(message string) {
		e.Helper()
		e.nothing(func() {
			_, _, err := e.RollKey(e.ctx, actor, e.newRoll(old.ID, 0))
			e.conflictOf(err, message)
		})
	}
	refused("Key has been replaced by " + next.ID)
	e.harness.Advance(time.Hour + time.Millisecond)
	refused("API key has expired: " + old.ID)
	e.revoke(old.ID)
	refused("API key has been revoked: " + old.ID)
	e.setState(a, credential.Terminated)
	refused("API key has been revoked: " + old.ID)

	b := e.account()
	old = e.key(b.ID)
	next, _ = e.roll(old.ID, time.Hour)
	e.setState(b, credential.Terminated)
	refused("Key has been replaced by " + next.ID)
}

// testSequentialRolls: however often a key is rolled, two keys of its chain are in force.
func testSequentialRolls(e *env) {
	a := e.account()
	first := e.key(a.ID, "chat:companion")
	last, before := first, first
	for range 50 {
		before = last
		last, _ = e.roll(last.ID, 7*24*time.Hour)
	}
	e.same("in force", e.inForce(a.ID), []string{before.ID, last.ID})
	e.same("chain", last.Chain, first.ID)
	_, _, err := e.RollKey(e.ctx, actor, e.newRoll(first.ID, time.Hour))
	e.conflictOf(err, "API key has been revoked: "+first.ID)
	e.same("revoked", e.revokeChain(first.ID, a.ID).Revoked, []string{before.ID, last.ID})
	e.same("in force after the chain was revoked", len(e.inForce(a.ID)), 0)
}

// testConcurrentRolls: of many rolls of one key one succeeds.
func testConcurrentRolls(e *env) {
	a := e.account()
	key := e.key(a.ID, "chat:companion")
	const rolls = 50
	for range 3 {
		var g errgroup.Group
		successors := make(chan keystore.Key, rolls)
		for range rolls {
			r := e.newRoll(key.ID, time.Hour)
			g.Go(func() error {
				next, _, err := e.RollKey(e.ctx, actor, r)
				var c *keystore.Conflict
				if errors.As(err, &c) && strings.HasPrefix(c.Message, "Key has been replaced by ") {
					return nil
				}
				successors <- next
				return err
			})
		}
		e.ok(g.Wait())
		e.same("rolls that succeeded", len(successors), 1)
		next := <-successors
		e.same("in force", e.inForce(a.ID), []string{key.ID, next.ID})
		key = next
	}
}

func testRevokeChain(e *env) {
	a, b := e.account(), e.account()
	first := e.key(a.ID)
	other := e.key(a.ID)
	second, _ := e.roll(first.ID, time.Minute)
	e.harness.Advance(2 * time.Minute) // first has expired, and is not revoked
	third, _ := e.roll(second.ID, time.Hour)
	e.nothing(func() {
		_, err := e.RevokeChain(e.ctx, actor, first.ID, b.ID)
		e.is(err, keystore.ErrNotFound)
		_, err = e.RevokeChain(e.ctx, actor, "key_none", "")
		e.is(err, keystore.ErrNotFound)
	})
	now := e.head().Now
	var chain keystore.RevokedChain
	got := e.effect(func() { chain = e.revokeChain(second.ID, a.ID) })
	head := e.head().Revision
	e.same("revoked", chain.Revoked, []string{first.ID, second.ID, third.ID})
	e.same("revision", chain.Revision, head)
	e.same("changes", got.changes, []keystore.Change{
		{Revision: head - 2, Digest: first.Digest}, {Revision: head - 1, Digest: second.Digest}, {Revision: head, Digest: third.Digest},
	})
	e.same("events", len(got.events), 3)
	for i, k := range []keystore.Key{third, second, first} { // newest first
		e.logged(effect{events: got.events[i : i+1]}, now, keystore.Event{Action: keystore.KeyRevoke, Account: a.ID, Key: k.ID})
	}
	e.around("revoked", chain.Key.RevokedAt, now)
	e.same("key", [2]string{chain.Key.ID, chain.Key.State.String()}, [2]string{second.ID, "revoked"})
	e.reads(chain.Key)
	e.same("in force", e.inForce(a.ID), []string{other.ID})

	e.harness.Advance(time.Minute)
	for i, id := range []string{first.ID, second.ID, third.ID} {
		e.nothing(func() {
			again := e.revokeChain(id, "")
			e.same("again", again, keystore.RevokedChain{Key: e.read(id), Revoked: []string{}, Revision: head})
			e.reads(again.Key)
			e.same("revision of the key", again.Key.Revision, head-2+int64(i))
		})
	}

	// Keys that are revoked already are not named, and the account may be terminated.
	first = e.key(a.ID)
	second, _ = e.roll(first.ID, 0)
	e.setState(a, credential.Terminated)
	chain = e.revokeChain(first.ID, "")
	e.same("revoked", chain.Revoked, []string{second.ID})
	e.same("key", chain.Key.State, credential.Revoked)
	e.same("revision", chain.Revision, e.head().Revision)
}

func testRevokeChainOfOne(e *env) {
	a := e.account()
	k := e.key(a.ID)
	var chain keystore.RevokedChain
	e.one(func() int64 {
		chain = e.revokeChain(k.ID, "")
		return chain.Revision
	}, keystore.Change{Digest: k.Digest}, keystore.Event{Action: keystore.KeyRevoke, Account: a.ID, Key: k.ID})
	e.same("revoked", chain.Revoked, []string{k.ID})
	e.reads(chain.Key)
	chain.Revoked = []string{}
	e.nothing(func() { e.same("again", e.revokeChain(k.ID, ""), chain) })
}

// testScopesOfChain: a scope is granted to and removed from one key only.
func testScopesOfChain(e *env) {
	a := e.account()
	next, old := e.roll(e.key(a.ID, "s").ID, time.Hour)
	for _, scope := range []string{"s", "t"} {
		k := e.setScope(old.ID, scope, scope == "t")
		e.reads(k)
		e.same("the replaced key is still one", [2]string{k.ReplacedBy, k.Chain}, [2]string{next.ID, old.ID})
	}
	e.same("scopes of the replaced key", e.fact(old.Digest).Record.Scopes, credential.NewScopes("t"))
	e.reads(next)
}
