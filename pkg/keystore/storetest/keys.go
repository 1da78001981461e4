package storetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

func testKeys(e *env) {
	a := e.account()
	now := e.head().Now
	expiry := now.Add(time.Hour + 123456789) // finer than an engine may store
	var k keystore.Key
	minted := keystore.NewKey{
		ID: "key_1", Account: a.ID, Label: "Läbel", Hint: "phk_abcd", Digest: digestOf("key_1"),
		Scopes: credential.NewScopes("b", "a"), ExpiresAt: expiry,
	}
	got := e.effect(func() { k = e.create(minted) })
	e.same("changes", got.changes, []keystore.Change{{Revision: k.Revision, Digest: k.Digest}})
	e.logged(got, now, keystore.Event{Action: keystore.KeyMint, Account: a.ID, Key: k.ID, Detail: map[string]string{
		"label": "Läbel", "scopes": "a b", "expires_at": k.ExpiresAt.Format(time.RFC3339Nano),
	}})
	e.around("created", k.CreatedAt, now)
	if k.ExpiresAt.After(expiry) || expiry.Sub(k.ExpiresAt) > time.Millisecond {
		e.Fatalf("expires at %v, want %v truncated to the engine's precision", k.ExpiresAt, expiry)
	}
	e.same("key", k, keystore.Key{
		ID: "key_1", Account: a.ID, Digest: digestOf("key_1"), Label: "Läbel", Hint: "phk_abcd", Scopes: credential.NewScopes("a", "b"),
		State: credential.Active, CreatedAt: k.CreatedAt, CreatedBy: actor, ExpiresAt: k.ExpiresAt, Revision: k.Revision,
	})
	e.reads(k)
	e.same("fact", e.fact(k.Digest), keystore.Fact{Found: true, Record: credential.Record{
		Kind: credential.Key, ID: k.ID, State: credential.Active, ExpiresAt: k.ExpiresAt, Scopes: k.Scopes,
		Account: credential.Account{ID: a.ID, State: credential.Active},
	}})

	imported := keystore.NewKey{ID: "key_2", Account: a.ID, Label: "Old one", Imported: true} // the zero digest is valid
	e.one(func() int64 {
		k = e.create(imported)
		return k.Revision
	}, keystore.Change{}, keystore.Event{
		Action: keystore.KeyImport, Account: a.ID, Key: "key_2", Detail: map[string]string{"label": "Old one", "scopes": ""},
	})
	e.reads(k)
	e.same("found", e.fact(credential.Digest{}).Found, true)
}

func testKeyRefusals(e *env) {
	a, other, gone := e.account(), e.account(), e.terminated()
	k, s := e.key(a.ID), e.session(a.ID, time.Hour)
	refused := func(account string, set func(*keystore.NewKey)) error {
		n := e.newKey(account)
		set(&n)
		_, err := e.CreateKey(e.ctx, actor, n)
		if n.ID != k.ID {
			_, notFound := e.Key(e.ctx, n.ID)
			e.is(notFound, keystore.ErrNotFound)
		}
		return err
	}
	e.nothing(func() {
		e.is(refused("acc_none", func(*keystore.NewKey) {}), keystore.ErrNotFound)
		e.conflict(refused(gone.ID, func(*keystore.NewKey) {}))
		e.conflict(refused(gone.ID, func(n *keystore.NewKey) { n.Imported = true }))
		e.conflict(refused(a.ID, func(n *keystore.NewKey) { n.ID = k.ID }))
		e.conflict(refused(a.ID, func(n *keystore.NewKey) { n.Digest = k.Digest }))
		e.conflict(refused(other.ID, func(n *keystore.NewKey) { n.Digest, n.Imported = k.Digest, true }))
		e.conflict(refused(other.ID, func(n *keystore.NewKey) { n.Digest = s.Digest }))
		_, err := e.Key(e.ctx, "key_none")
		e.is(err, keystore.ErrNotFound)
		_, _, err = e.Keys(e.ctx, "acc_none", keystore.Page{Limit: 1})
		e.is(err, keystore.ErrNotFound)
	})
	e.reads(k)
	e.revoke(k.ID)
	e.conflict(refused(a.ID, func(n *keystore.NewKey) { n.Digest = k.Digest })) // also after the revocation
}

func testKeyLimit(e *env) {
	a, other := e.account(), e.account()
	e.key(other.ID) // does not count here
	e.revoked(a.ID) // does not count either
	limited := func() (keystore.Key, error) {
		n := e.newKey(a.ID)
		n.Limit = 2
		n.ExpiresAt = e.head().Now.Add(time.Hour)
		return e.CreateKey(e.ctx, actor, n)
	}
	first, err := limited()
	e.ok(err)
	_, err = limited()
	e.ok(err)
	e.nothing(func() {
		_, err := limited()
		e.conflict(err)
	})
	e.key(a.ID) // without a limit
	e.revoke(first.ID)
	_, err = limited()
	e.conflict(err)
	e.harness.Advance(time.Hour) // all but the unlimited one expire
	_, err = limited()
	e.ok(err)
	_, err = limited()
	e.conflict(err)
}

func testRevoke(e *env) {
	a, other := e.account(), e.account()
	k := e.key(a.ID, "s")
	want := k
	e.nothing(func() {
		_, err := e.RevokeKey(e.ctx, actor, k.ID, other.ID)
		e.is(err, keystore.ErrNotFound)
		_, err = e.RevokeKey(e.ctx, actor, "key_none", "")
		e.is(err, keystore.ErrNotFound)
	})
	e.harness.Advance(time.Minute)
	now := e.head().Now
	e.one(func() int64 {
		var err error
		k, err = e.RevokeKey(e.ctx, actor, k.ID, a.ID)
		e.ok(err)
		return k.Revision
	}, keystore.Change{Digest: k.Digest}, keystore.Event{Action: keystore.KeyRevoke, Account: a.ID, Key: k.ID})
	e.around("revoked", k.RevokedAt, now)
	want.State, want.RevokedAt, want.Revision = credential.Revoked, k.RevokedAt, k.Revision
	e.same("key", k, want)
	e.reads(k)
	e.same("state", e.fact(k.Digest).Record.State, credential.Revoked)

	e.harness.Advance(time.Minute)
	e.nothing(func() { e.same("revoked again", e.revoke(k.ID), k) })
	k = e.key(a.ID)
	e.setState(a, credential.Terminated)
	e.revoke(k.ID)
}

func testScopes(e *env) {
	a := e.account()
	k := e.key(a.ID, "b")
	set := func(scope string, granted bool, action keystore.Action, want ...string) {
		e.Helper()
		old := k
		e.one(func() int64 {
			k = e.setScope(k.ID, scope, granted)
			return k.Revision
		}, keystore.Change{Digest: k.Digest}, keystore.Event{
			Action: action, Account: a.ID, Key: k.ID, Detail: map[string]string{"scope": scope},
		})
		old.Scopes, old.Revision = credential.NewScopes(want...), k.Revision
		e.same("key", k, old)
		e.reads(k)
		e.same("scopes of the fact", e.fact(k.Digest).Record.Scopes, k.Scopes)
		e.nothing(func() { e.same("set again", e.setScope(k.ID, scope, granted), k) })
	}
	set("a", true, keystore.KeyGrant, "a", "b")
	set("b", false, keystore.KeyUngrant, "a")
	set("a", false, keystore.KeyUngrant)
	set("a", true, keystore.KeyGrant, "a")

	e.setState(a, credential.Terminated)
	e.nothing(func() {
		_, err := e.SetKeyScope(e.ctx, actor, k.ID, "c", true)
		e.conflict(err)
		_, err = e.SetKeyScope(e.ctx, actor, "key_none", "c", true)
		e.is(err, keystore.ErrNotFound)
	})
	set("a", false, keystore.KeyUngrant) // a removal is always allowed
}

func testScopesUpToBound(e *env) {
	a := e.account()
	names := make([]string, credential.MaxScopes)
	for i := range names {
		names[i] = fmt.Sprint("scope_", i)
	}
	k := e.key(a.ID, names[1:]...)
	k = e.setScope(k.ID, names[0], true)
	e.same("scopes", k.Scopes.Len(), credential.MaxScopes)
	e.nothing(func() {
		_, err := e.SetKeyScope(e.ctx, actor, k.ID, "one_more", true)
		e.conflict(err)
		e.same("one that it has", e.setScope(k.ID, names[7], true), k)
	})
	e.setScope(k.ID, names[0], false)
	k = e.setScope(k.ID, "one_more", true)
	if !slices.Contains(k.Scopes.List(), "one_more") {
		e.Fatalf("scopes are %v", k.Scopes)
	}
}
