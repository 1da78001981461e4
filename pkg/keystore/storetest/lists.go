package storetest

import (
	"context"
	"encoding/base64"
	"slices"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

func testAudit(e *env) {
	a, b := e.account(), e.account()
	k := e.key(a.ID)
	_, err := e.RevokeKey(e.ctx, "owner:"+a.ID, k.ID, a.ID)
	e.ok(err)
	other := e.key(a.ID)
	e.session(b.ID, time.Hour)

	type entry struct {
		action       keystore.Action
		account, key string
	}
	check := func(account, key string, want ...entry) {
		e.Helper()
		events, next, err := e.Events(e.ctx, account, key, keystore.Page{Limit: 100})
		e.ok(err)
		got := make([]entry, len(events))
		for i, event := range events {
			got[i] = entry{event.Action, event.Account, event.Key}
			if i > 0 && event.At.After(events[i-1].At) {
				e.Fatalf("the event at %d is younger than the one before it", i)
			}
			if event.Detail == nil {
				e.Fatal("an event without a Detail; want an empty one")
			}
		}
		if next != "" || !slices.Equal(got, want) {
			e.Fatalf("events of %q, %q: %v, next %q; want %v", account, key, got, next, want)
		}
	}
	createA, createB := entry{keystore.AccountCreate, a.ID, ""}, entry{keystore.AccountCreate, b.ID, ""}
	mint, revoke := entry{keystore.KeyMint, a.ID, k.ID}, entry{keystore.KeyRevoke, a.ID, k.ID}
	mintOther, session := entry{keystore.KeyMint, a.ID, other.ID}, entry{keystore.SessionMint, b.ID, ""}
	check("", "", session, mintOther, revoke, mint, createB, createA)
	check(a.ID, "", mintOther, revoke, mint, createA)
	check(b.ID, "", session, createB)
	check("", k.ID, revoke, mint)
	check(a.ID, k.ID, revoke, mint)
	check(b.ID, k.ID)
	check("acc_none", "")

	events, _, err := e.Events(e.ctx, "", k.ID, keystore.Page{Limit: 1})
	e.ok(err)
	e.same("actor", events[0].Actor, "owner:"+a.ID)
}

// list is one list in pages, with the ids of its entries.
type list func(context.Context, keystore.Page) (ids []string, next string, err error)

// idsOf makes a list of the ids of another one.
func idsOf[T any](read func(context.Context, keystore.Page) ([]T, string, error), id func(T) string) list {
	return func(ctx context.Context, p keystore.Page) (ids []string, next string, err error) {
		entries, next, err := read(ctx, p)
		for _, entry := range entries {
			ids = append(ids, id(entry))
		}
		return ids, next, err
	}
}

// lists are all lists of the store, of one account and one key if they have such a filter.
func (e *env) lists(account, key string) map[string]list {
	events := func(account, key string) list {
		return idsOf(func(ctx context.Context, p keystore.Page) ([]keystore.Event, string, error) {
			return e.Events(ctx, account, key, p)
		},
			func(ev keystore.Event) string {
				return strings.Join([]string{string(ev.Action), ev.Account, ev.Key, ev.Detail["session"]}, " ")
			})
	}
	return map[string]list{
		"accounts": idsOf(e.Accounts, func(a keystore.Account) string { return a.ID }),
		"keys": idsOf(func(ctx context.Context, p keystore.Page) ([]keystore.Key, string, error) {
			return e.Keys(ctx, account, p)
		},
			func(k keystore.Key) string { return k.ID }),
		"sidecars": idsOf(func(ctx context.Context, p keystore.Page) ([]keystore.Sidecar, string, error) {
			_, list, next, err := e.Sidecars(ctx, p)
			return list, next, err
		}, func(s keystore.Sidecar) string { return s.Name }),
		"all events":            events("", ""),
		"an account's events":   events(account, ""),
		"a key's events":        events("", key),
		"an account's key's":    events(account, key),
		"events of no account":  events("acc_none", ""),
		"events of another key": events("", "key_none"),
	}
}

// all reads the list in pages of that size, and calls between before each next page.
func (l list) all(e *env, size int, between func()) []string {
	e.Helper()
	return pages(e, size, func(ctx context.Context, p keystore.Page) ([]string, string, error) {
		if p.After != "" {
			between()
		}
		part, next, err := l(ctx, p)
		if len(part) > size || (next != "" && len(part) != size) {
			e.Fatalf("a page of %d has %d entries, next %q", size, len(part), next)
		}
		return part, next, err
	})
}

// sidecarNames are in the order of the list, which is that of bytes.
var sidecarNames = []string{"1", "A b", "Z", "a", "a/b", strings.Repeat("ü", 128)}

// twoAccounts creates two accounts with six keys each, in turn, and puts sidecars on record.
func (e *env) twoAccounts() (a, b keystore.Account, keysOfA []string) {
	e.Helper()
	a, b = e.account(), e.account()
	for range 6 {
		keysOfA = append(keysOfA, e.key(a.ID).ID)
		e.key(b.ID)
	}
	for _, name := range slices.Backward(sidecarNames) {
		e.poll(keystore.Poll{Sidecar: name, Epoch: e.head().Epoch, Lease: time.Hour})
	}
	return a, b, keysOfA
}

func testPages(e *env) {
	a, b, keysOfA := e.twoAccounts()
	e.revoke(keysOfA[0])
	lists := e.lists(a.ID, keysOfA[0])
	for name, list := range lists {
		whole := list.all(e, 1000, func() {})
		for size := 1; size <= len(whole)+1; size++ {
			e.same(name+" in pages", list.all(e, size, func() {}), whole)
		}
		for _, limit := range []int{-1, 0, 1001} {
			if _, _, err := list(e.ctx, keystore.Page{Limit: limit}); err == nil {
				e.Fatalf("%s: a page of %d entries", name, limit)
			}
		}
	}
	e.same("keys by creation", lists["keys"].all(e, 1000, func() {}), keysOfA)
	e.same("sidecars by name", lists["sidecars"].all(e, 1000, func() {}), sidecarNames)
	e.same("accounts by creation", lists["accounts"].all(e, 1000, func() {}), []string{a.ID, b.ID})
	e.same("a key's events", lists["a key's events"].all(e, 1, func() {}),
		[]string{"key.revoke " + a.ID + " " + keysOfA[0] + " ", "key.mint " + a.ID + " " + keysOfA[0] + " "})
}

// testPagesUnderChange: reading page by page returns each entry once that existed at the beginning. New entries are at the
// end of a list that begins with the oldest, and not in a list that begins with the newest.
func testPagesUnderChange(e *env) {
	a, _, keysOfA := e.twoAccounts()
	for name, list := range e.lists(a.ID, keysOfA[3]) {
		want := list.all(e, 1000, func() {})
		inserts := 0
		got := list.all(e, 2, func() {
			if inserts++; inserts <= 2 {
				e.key(a.ID)
				e.account()
				e.setScope(keysOfA[3], e.name("scope"), true)
			}
		})
		if name == "keys" || name == "accounts" {
			want = list.all(e, 1000, func() {})
		}
		e.same(name+" under change", got, want)
	}
}

func testCursors(e *env) {
	a, b, keysOfA := e.twoAccounts()
	for range 2 {
		e.setScope(keysOfA[0], e.name("scope"), true)
	}
	lists, others := e.lists(a.ID, keysOfA[0]), e.lists(b.ID, keysOfA[1])
	lists["another account's keys"] = others["keys"]
	lists["another account's events"] = others["an account's events"]
	lists["another key's events"] = others["a key's events"]
	for from, source := range lists {
		_, cursor, err := source(e.ctx, keystore.Page{Limit: 1})
		e.ok(err)
		for to, target := range lists {
			if from != to && cursor != "" {
				_, _, err := target(e.ctx, keystore.Page{Limit: 1, After: cursor})
				e.is(err, keystore.ErrCursor)
			}
		}
		for _, bad := range tampered(cursor) {
			if _, _, err := source(e.ctx, keystore.Page{Limit: 1, After: bad}); err == nil {
				e.Fatalf("%s took the cursor %q", from, bad)
			} else {
				e.is(err, keystore.ErrCursor)
			}
		}
	}
}

// tampered are values that resemble the cursor.
func tampered(cursor string) []string {
	bad := []string{
		"x", "0", "1", "-1", " ", "\x00", "null", "{}", "' OR 1=1 --", strings.Repeat("A", 10_000),
		base64.RawURLEncoding.EncodeToString(make([]byte, 8)), base64.RawURLEncoding.EncodeToString(make([]byte, 24)),
	}
	if cursor == "" {
		return bad
	}
	for i := range len(cursor) {
		for _, c := range []byte("AB\n=") {
			changed := []byte(cursor)
			changed[i] = c
			if string(changed) != cursor {
				bad = append(bad, string(changed))
			}
		}
	}
	return append(bad, cursor[1:], cursor[:len(cursor)-1], cursor+"A", cursor+"=", cursor+"\n", "\r\n"+cursor, cursor+cursor)
}

func testResolve(e *env) {
	a, gone := e.account(), e.account()
	k, revoked, s, orphan := e.key(a.ID, "x"), e.revoked(a.ID), e.session(a.ID, time.Hour), e.key(gone.ID)
	e.setState(gone, credential.Terminated)
	resolve := func(digests ...credential.Digest) []keystore.Fact {
		e.Helper()
		head, facts, err := e.Resolve(e.ctx, digests)
		e.ok(err)
		e.around("now", e.head().Now, head.Now)
		e.sameHead(head)
		return facts
	}
	e.same("facts about nothing", len(resolve()), 0)
	e.same("revision", e.head().Revision, orphan.Revision+1)

	digests := []credential.Digest{s.Digest, digestOf("unknown"), k.Digest, orphan.Digest, revoked.Digest, k.Digest, {}}
	want := []string{s.ID, "", k.ID, orphan.ID, revoked.ID, k.ID, ""}
	for len(digests) < 1000 {
		digests, want = append(digests, digestOf(e.name("unknown"))), append(want, "")
	}
	digests[999], want[999] = k.Digest, k.ID
	facts := resolve(digests...)
	got := make([]string, len(facts))
	for i, f := range facts {
		got[i] = f.Record.ID
		if f.Found != (f.Record.ID != "") {
			e.Fatalf("fact %d: %+v", i, f)
		}
	}
	e.same("ids", got, want)
	e.same("an unknown one", facts[1], keystore.Fact{})
	e.same("the orphan's account", facts[3].Record.Account, credential.Account{ID: gone.ID, State: credential.Terminated})
	e.same("the orphan's state", facts[3].Record.State, credential.Active)
	e.same("kind", []credential.Kind{facts[0].Record.Kind, facts[2].Record.Kind}, []credential.Kind{credential.Session, credential.Key})
	e.same("facts about one unknown digest", resolve(digestOf("unknown")), []keystore.Fact{{}})
}
