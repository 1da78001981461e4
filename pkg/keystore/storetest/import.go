package storetest

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// toImport is a key of an import.
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

// testImport: an import writes what CreateKey writes one by one.
func testImport(e *env) {
	a, b := e.account(), e.account()
	expiry := e.head().Now.Add(time.Hour + 123456789)
	newList := func() []keystore.NewKey {
		keys := []keystore.NewKey{e.toImport(a.ID), e.toImport(b.ID), e.toImport(a.ID)}
		keys[0].Scopes = credential.NewScopes("b", "a")
		keys[1].Label, keys[1].ExpiresAt = `Läbel, "quoted" \ and	more`, expiry
		keys[2].Limit = 1 // is ignored
		return keys
	}
	created, imported := newList(), newList()
	want := e.effect(func() {
		for _, n := range created {
			n.Imported, n.Limit = true, 0
			e.create(n)
		}
	})
	before := e.head()
	var done keystore.Imported
	got := e.effect(func() { done = e.imported(imported...) })
	e.same("imported", done, keystore.Imported{Imported: 3, Revision: before.Revision + 3})
	ignored := cmp.Options{
		cmpopts.IgnoreFields(keystore.Key{}, "ID", "Digest", "Revision", "CreatedAt"),
		cmpopts.IgnoreFields(keystore.Event{}, "Key", "At"), cmpopts.IgnoreFields(credential.Record{}, "ID"),
	}
	alike := func(what string, created, imported any) {
		e.Helper()
		if diff := cmp.Diff(created, imported, ignored); diff != "" {
			e.Fatalf("%s (-created +imported):\n%s", what, diff)
		}
	}
	alike("events", want.events, got.events)
	e.same("changes", len(got.changes), 3)
	for i, n := range imported {
		k := e.read(n.ID)
		alike("key", e.read(created[i].ID), k)
		alike("fact", e.fact(created[i].Digest), e.fact(k.Digest))
		e.reads(k)
		e.around("created", k.CreatedAt, before.Now)
		e.same("revision", k.Revision, before.Revision+1+int64(i))
		e.same("change", got.changes[i], keystore.Change{Revision: k.Revision, Digest: n.Digest})
		e.same("event's key", got.events[len(imported)-1-i].Key, k.ID)
		e.same("digest", k.Digest, n.Digest)
		e.same("fact's id", e.fact(k.Digest).Record.ID, k.ID)
	}
	var ids []string
	for _, k := range e.keys(a.ID) {
		ids = append(ids, k.ID)
	}
	e.same("order of the list", ids, []string{created[0].ID, created[2].ID, imported[0].ID, imported[2].ID})
}

// testRepeatedImport: keys that exist do not change.
func testRepeatedImport(e *env) {
	a, b := e.account(), e.account()
	first, revoked, fresh := e.toImport(a.ID), e.toImport(a.ID), e.toImport(a.ID)
	e.imported(first, revoked)
	old := e.revoke(revoked.ID)
	again := func(n keystore.NewKey) keystore.NewKey { // as another import has it
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

	e.setState(a, credential.Terminated)
	e.nothing(func() { // repetition has precedence over the conflict
		e.same("of a terminated account", e.imported(again(first)).Existing, 1)
		_ = e.refusedImport([]keystore.NewKey{again(first), e.toImport(b.ID), e.toImport(a.ID)}, 2)
	})
}

// refusedImport checks that an import fails because of the keys at those indexes, and changes nothing.
func (e *env) refusedImport(keys []keystore.NewKey, indexes ...int) keystore.ImportErrors {
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
	for _, mistake := range all {
		found = append(found, mistake.Index)
	}
	e.same("indexes of the mistakes", found, indexes)
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
		e.conflict(e.refusedImport([]keystore.NewKey{good, bad}, 1))
	}
	e.is(e.refusedImport([]keystore.NewKey{none, good}, 0), keystore.ErrNotFound)
	all := e.refusedImport([]keystore.NewKey{none, good, e.toImport(gone.ID), good, none}, 0, 2, 4)
	e.is(all[0], keystore.ErrNotFound)
	e.conflict(all[1])
	e.is(all[2], keystore.ErrNotFound)
	_, err := e.Key(e.ctx, good.ID)
	e.is(err, keystore.ErrNotFound)
	e.reads(k)
}

// testImportBounds: MaxImport keys are imported, and one more is refused.
func testImportBounds(e *env) {
	a := e.account()
	before := e.head()
	keys := numberedKeys("key", a.ID, keystore.MaxImport+1)
	e.nothing(func() {
		if _, err := e.ImportKeys(e.ctx, actor, keys); err == nil {
			e.Fatal("more than MaxImport were imported")
		}
	})
	end := before.Revision + keystore.MaxImport
	e.same("imported", e.imported(keys[:keystore.MaxImport]...), keystore.Imported{Imported: keystore.MaxImport, Revision: end})
	at := before.Revision
	for at < end {
		for _, c := range e.changes(at) {
			if c != (keystore.Change{Revision: at + 1, Digest: keys[at-before.Revision].Digest}) {
				e.Fatalf("the change after %d is %+v", at, c)
			}
			at++
		}
	}
	e.same("keys", len(e.keys(a.ID)), keystore.MaxImport)
	e.same("events", len(e.events()), keystore.MaxImport+1)
}

func (mc *machine) imports(t *rapid.T) {
	keys := make([]keystore.NewKey, rapid.IntRange(0, 5).Draw(t, "keys"))
	for i := range keys {
		keys[i] = keystore.NewKey{ID: mc.id("key"), Account: pick(t, "acc", 2), Label: "imported", Digest: anyDigest(t)}
		if rapid.IntRange(0, 9).Draw(t, "clash") == 9 {
			keys[i].ID = mc.anyKey(t)
		}
	}
	got, err := mc.store(t).ImportKeys(mc.ctx, actor, keys)
	want, mistakes := mc.model.importKeys(keys)
	var found []string
	var all keystore.ImportErrors
	switch {
	case errors.As(err, &all):
		for _, mistake := range all {
			kind := conflict
			if errors.Is(mistake, keystore.ErrNotFound) {
				kind = notFound
			}
			found = append(found, fmt.Sprint(mistake.Index, " ", kind))
		}
	case err != nil:
		t.Fatal(err)
	}
	same(t, "mistakes", found, mistakes)
	same(t, "imported", got, want)
}
