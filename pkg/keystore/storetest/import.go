package storetest

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// toImport is a key as an import has it.
func (e *env) toImport(account string) keystore.NewKey {
	n := e.newKey(account)
	n.Hint = ""
	return n
}

func (e *env) imported(keys ...keystore.NewKey) keystore.Imported {
	e.Helper()
	got, err := e.ImportKeys(e.ctx, actor, keys)
	e.ok(err)
	return got
}

// testImport: what an import leaves behind is what CreateKey leaves behind, one by one.
func testImport(e *env) {
	a, b := e.account(), e.account()
	expiry := e.head().Now.Add(time.Hour + 123456789)
	list := func() []keystore.NewKey {
		keys := []keystore.NewKey{e.toImport(a.ID), e.toImport(b.ID), e.toImport(a.ID)}
		keys[0].Scopes = credential.NewScopes("b", "a")
		keys[1].Label, keys[1].ExpiresAt = `Läbel, "quoted" \ and	more`, expiry
		keys[2].Limit = 1 // is not looked at
		return keys
	}
	one, many := list(), list()
	want := e.effect(func() {
		for _, n := range one {
			n.Imported, n.Limit = true, 0
			e.create(n)
		}
	})
	before := e.head()
	var done keystore.Imported
	got := e.effect(func() { done = e.imported(many...) })
	e.same("imported", done, keystore.Imported{Imported: 3, Revision: before.Revision + 3})
	for i, n := range many {
		e.same("change", got.changes[i], keystore.Change{Revision: before.Revision + 1 + int64(i), Digest: n.Digest})
	}
	e.same("changes", len(got.changes), 3)
	ignored := cmp.Options{
		cmpopts.IgnoreFields(keystore.Key{}, "ID", "Digest", "Revision", "CreatedAt"),
		cmpopts.IgnoreFields(keystore.Event{}, "Key", "At"), cmpopts.IgnoreFields(credential.Record{}, "ID"),
	}
	if diff := cmp.Diff(want.events, got.events, ignored); diff != "" {
		e.Fatalf("events (-one by one +import):\n%s", diff)
	}
	for i := range many {
		k, err := e.Key(e.ctx, many[i].ID)
		e.ok(err)
		other, err := e.Key(e.ctx, one[i].ID)
		e.ok(err)
		if diff := cmp.Diff(other, k, ignored); diff != "" {
			e.Fatalf("key %d (-one by one +import):\n%s", i, diff)
		}
		e.reads(k)
		e.around("created", k.CreatedAt, before.Now)
		e.same("revision", k.Revision, before.Revision+1+int64(i))
		e.same("event's key", got.events[len(many)-1-i].Key, k.ID)
		e.same("digest", k.Digest, many[i].Digest)
		if diff := cmp.Diff(e.fact(one[i].Digest), e.fact(k.Digest), ignored); diff != "" {
			e.Fatalf("fact %d (-one by one +import):\n%s", i, diff)
		}
		e.same("fact's id", e.fact(k.Digest).Record.ID, k.ID)
	}
	keys, _, err := e.Keys(e.ctx, a.ID, keystore.Page{Limit: 10})
	e.ok(err)
	var ids []string
	for _, k := range keys {
		ids = append(ids, k.ID)
	}
	e.same("order of the list", ids, []string{one[0].ID, one[2].ID, many[0].ID, many[2].ID})
}

// testImportAgain: what is there already stays as it is.
func testImportAgain(e *env) {
	a, b := e.account(), e.account()
	first, revoked, fresh := e.toImport(a.ID), e.toImport(a.ID), e.toImport(a.ID)
	e.imported(first, revoked)
	old, err := e.RevokeKey(e.ctx, actor, revoked.ID, "")
	e.ok(err)
	again := func(n keystore.NewKey) keystore.NewKey { // as another run has it
		n.ID, n.Label = e.name("key"), "Another label"
		return n
	}
	e.nothing(func() {
		e.same("repeated", e.imported(again(first), again(revoked), first), keystore.Imported{Existing: 3, Revision: old.Revision})
		e.same("empty", e.imported(), keystore.Imported{})
	})
	var done keystore.Imported
	got := e.effect(func() { done = e.imported(again(revoked), fresh, again(fresh), again(first)) })
	e.same("mixed", done, keystore.Imported{Imported: 1, Existing: 3, Revision: old.Revision + 1})
	e.same("changes", got.changes, []keystore.Change{{Revision: old.Revision + 1, Digest: fresh.Digest}})
	e.same("events", len(got.events), 1)
	e.reads(old)

	_, err = e.SetAccountState(e.ctx, actor, a.ID, credential.Terminated)
	e.ok(err)
	e.nothing(func() { // repetition comes before the conflict
		e.same("of a terminated account", e.imported(again(first)).Existing, 1)
		_ = e.wrong([]keystore.NewKey{again(first), e.toImport(b.ID), e.toImport(a.ID)}, 2)
	})
}

// wrong checks that an import fails at those places and does nothing.
func (e *env) wrong(keys []keystore.NewKey, places ...int) keystore.ImportErrors {
	e.Helper()
	var all keystore.ImportErrors
	e.nothing(func() {
		got, err := e.ImportKeys(e.ctx, actor, keys)
		if !errors.As(err, &all) {
			e.Fatalf("got %+v and error %v, want ImportErrors", got, err)
		}
		e.same("imported", got, keystore.Imported{})
	})
	var found []int
	for _, one := range all {
		found = append(found, one.Index)
	}
	e.same("places of the mistakes", found, places)
	return all
}

func testImportRefusals(e *env) {
	a, b, gone := e.account(), e.account(), e.terminated()
	k, s := e.key(a.ID), e.session(a.ID, time.Hour)
	with := func(account string, set func(*keystore.NewKey)) keystore.NewKey {
		n := e.toImport(account)
		set(&n)
		return n
	}
	good := e.toImport(b.ID)
	none := e.toImport("acc_none")
	for _, bad := range []keystore.NewKey{
		e.toImport(gone.ID),
		with(b.ID, func(n *keystore.NewKey) { n.Digest = k.Digest }),
		with(a.ID, func(n *keystore.NewKey) { n.Digest = s.Digest }),
		with(a.ID, func(n *keystore.NewKey) { n.ID = k.ID }),
		with(a.ID, func(n *keystore.NewKey) { n.Digest = good.Digest }), // of two accounts in one list
		with(b.ID, func(n *keystore.NewKey) { n.ID = good.ID }),
	} {
		e.conflict(e.wrong([]keystore.NewKey{good, bad}, 1))
	}
	e.is(e.wrong([]keystore.NewKey{none, good}, 0), keystore.ErrNotFound)
	all := e.wrong([]keystore.NewKey{none, good, e.toImport(gone.ID), good, none}, 0, 2, 4)
	e.is(all[0], keystore.ErrNotFound)
	e.conflict(all[1])
	e.is(all[2], keystore.ErrNotFound)
	e.nothing(func() {
		_, err := e.Key(e.ctx, good.ID)
		e.is(err, keystore.ErrNotFound)
	})
	e.reads(k)
}

// testImportBounds: the largest list, and one more.
func testImportBounds(e *env) {
	a := e.account()
	before := e.head()
	keys := make([]keystore.NewKey, keystore.MaxImport+1)
	for i := range keys {
		id := fmt.Sprintf("key_%d", i)
		keys[i] = keystore.NewKey{ID: id, Account: a.ID, Label: "One of many", Digest: digestOf(id)}
	}
	e.nothing(func() {
		if _, err := e.ImportKeys(e.ctx, actor, keys); err == nil {
			e.Fatal("more than MaxImport were taken")
		}
	})
	end := before.Revision + keystore.MaxImport
	e.same("imported", e.imported(keys[:keystore.MaxImport]...), keystore.Imported{Imported: keystore.MaxImport, Revision: end})
	at := before.Revision
	for at < end {
		_, changes, err := e.Changes(e.ctx, before.Epoch, at, 1000)
		e.ok(err)
		for _, c := range changes {
			e.same("change", c, keystore.Change{Revision: at + 1, Digest: keys[at-before.Revision].Digest})
			at++
		}
	}
	e.same("keys", len(e.everyKey(a.ID)), keystore.MaxImport)
	e.same("events", e.countEvents(), keystore.MaxImport+1)
}

func (mc *machine) imports(t *rapid.T) {
	keys := make([]keystore.NewKey, rapid.IntRange(0, 5).Draw(t, "keys"))
	for i := range keys {
		keys[i] = keystore.NewKey{ID: mc.id("key"), Account: pick(t, "acc", 2), Label: "imported", Digest: anyDigest(t)}
		if rapid.IntRange(0, 9).Draw(t, "clash") == 9 {
			keys[i].ID = mc.anyKey(t)
		}
	}
	mc.now(t)
	got, err := mc.h.Store.ImportKeys(mc.ctx, actor, keys)
	want, wrong := mc.model.importKeys(keys)
	var found []string
	var all keystore.ImportErrors
	switch {
	case errors.As(err, &all):
		for _, one := range all {
			kind := conflict
			if errors.Is(one, keystore.ErrNotFound) {
				kind = notFound
			}
			found = append(found, fmt.Sprint(one.Index, " ", kind))
		}
	case err != nil:
		t.Fatal(err)
	}
	same(t, "mistakes", found, wrong)
	same(t, "imported", got, want)
}

// importKeys tries on a copy what CreateKey does one by one.
func (m *model) importKeys(keys []keystore.NewKey) (done keystore.Imported, wrong []string) {
	before := *m
	for i, n := range keys {
		had := slices.IndexFunc(m.keys, func(k *keystore.Key) bool { return k.Digest == n.Digest && k.Account == n.Account })
		if had >= 0 && m.account(n.Account) != nil {
			done.Existing++
			done.Revision = max(done.Revision, m.keys[had].Revision)
			continue
		}
		n.Imported, n.Limit = true, 0
		outcome := conflict
		if m.account(n.Account) == nil || m.key(n.ID) == nil {
			outcome = m.createKey(n)
		}
		if outcome != "done" {
			wrong = append(wrong, fmt.Sprint(i, " ", outcome))
			continue
		}
		done.Imported++
		done.Revision = m.head()
	}
	if len(wrong) > 0 {
		*m = before
		return keystore.Imported{}, wrong
	}
	return done, nil
}
