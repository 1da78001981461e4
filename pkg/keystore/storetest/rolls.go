package storetest

import (
	"cmp"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

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
	e.same("state of the old one's fact", e.fact(old.Digest).Record.State, credential.Revoked)
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

	n := e.newKey(a.ID)
	n.ExpiresAt = now.Add(time.Minute)
	sooner := e.create(n)
	next, replaced = e.rolled(sooner, time.Hour)
	e.same("expiry of one that expires sooner", replaced.ExpiresAt, sooner.ExpiresAt)
	e.same("expiry of its successor", next.ExpiresAt, sooner.ExpiresAt)

	n = e.newKey(a.ID)
	n.ExpiresAt = now.Add(24 * time.Hour)
	later := e.create(n)
	next, replaced = e.rolled(later, time.Hour)
	e.around("the end of the grace", replaced.ExpiresAt, now.Add(time.Hour))
	e.same("expiry of its successor", next.ExpiresAt, later.ExpiresAt)
}

// rolled rolls the key and checks what every roll has in common.
func (e *env) rolled(old keystore.Key, grace time.Duration) (next, replaced keystore.Key) {
	e.Helper()
	now := e.head().Now
	roll := e.roll(old.ID, grace)
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
		"successor": next.ID, "grace_seconds": map[time.Duration]string{0: "0", time.Hour: "3600"}[grace],
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

func testRollRefusals(e *env) {
	a, other := e.account(), e.account()
	k, revoked, s := e.key(a.ID), e.revoked(a.ID), e.session(a.ID, time.Hour)
	n := e.newKey(a.ID)
	n.ExpiresAt = e.head().Now.Add(time.Minute)
	expired := e.create(n)
	e.harness.Advance(time.Minute + time.Millisecond)
	closing := e.account()
	orphan := e.key(closing.ID)
	e.setState(closing, credential.Terminated)

	roll := func(id string, set func(*keystore.Roll)) error {
		r := e.roll(id, 0)
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
	for _, untouched := range []keystore.Key{k, revoked, expired, orphan} {
		e.reads(untouched)
	}
}
