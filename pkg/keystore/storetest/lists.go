package storetest

import (
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

// walker is one list in pages: it returns what identifies each entry.
type walker func(keystore.Page) (ids []string, next string, err error)

// walkers are all lists of the store, of one account and one key where they have such a filter.
func (e *env) walkers(account, key string) map[string]walker {
	eventIDs := func(events []keystore.Event) (ids []string) {
		for _, ev := range events {
			ids = append(ids, strings.Join([]string{string(ev.Action), ev.Account, ev.Key, ev.Detail["session"]}, " "))
		}
		return ids
	}
	events := func(account, key string) walker {
		return func(p keystore.Page) ([]string, string, error) {
			list, next, err := e.Events(e.ctx, account, key, p)
			return eventIDs(list), next, err
		}
	}
	return map[string]walker{
		"accounts": func(p keystore.Page) (ids []string, next string, err error) {
			list, next, err := e.Accounts(e.ctx, p)
			for _, a := range list {
				ids = append(ids, a.ID)
			}
			return ids, next, err
		},
		"keys": func(p keystore.Page) (ids []string, next string, err error) {
			list, next, err := e.Keys(e.ctx, account, p)
			for _, k := range list {
				ids = append(ids, k.ID)
			}
			return ids, next, err
		},
		"sidecars": func(p keystore.Page) (ids []string, next string, err error) {
			_, list, next, err := e.Sidecars(e.ctx, p)
			for _, s := range list {
				ids = append(ids, s.Name)
			}
			return ids, next, err
		},
		"all events":            events("", ""),
		"an account's events":   events(account, ""),
		"a key's events":        events("", key),
		"an account's key's":    events(account, key),
		"events of no account":  events("acc_none", ""),
		"events of another key": events("", "key_none"),
	}
}

// all walks the list in pages of that size, and calls between before each next page.
func (w walker) all(e *env, size int, between func()) (ids []string) {
	e.Helper()
	page := keystore.Page{Limit: size}
	for {
		part, next, err := w(page)
		e.ok(err)
		if len(part) > size || (next != "" && len(part) != size) {
			e.Fatalf("a page of %d has %d entries, next %q", size, len(part), next)
		}
		ids = append(ids, part...)
		if next == "" {
			return ids
		}
		page.After = next
		between()
	}
}

// sidecarNames are in the order of the list, which is that of bytes.
var sidecarNames = []string{"1", "A b", "Z", "a", "a/b", strings.Repeat("ü", 128)}

// twoAccounts fills two accounts with six keys each, in turn, and puts sidecars on record.
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
	_, err := e.RevokeKey(e.ctx, actor, keysOfA[0], "")
	e.ok(err)
	lists := e.walkers(a.ID, keysOfA[0])
	for name, list := range lists {
		whole := list.all(e, 1000, func() {})
		for size := 1; size <= len(whole)+1; size++ {
			e.same(name+" in pages", list.all(e, size, func() {}), whole)
		}
		for _, limit := range []int{-1, 0, 1001} {
			if _, _, err := list(keystore.Page{Limit: limit}); err == nil {
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

// A walk tells every entry that was there when it began, once. What comes in
// meanwhile is at the end of what goes by age, and not seen in what goes by youth.
func testPagesUnderChange(e *env) {
	a, _, keysOfA := e.twoAccounts()
	for name, list := range e.walkers(a.ID, keysOfA[3]) {
		whole := list.all(e, 1000, func() {})
		inserts := 0
		walked := list.all(e, 2, func() {
			if inserts++; inserts <= 2 {
				e.key(a.ID)
				e.account()
				_, err := e.SetKeyScope(e.ctx, actor, keysOfA[3], e.name("scope"), true)
				e.ok(err)
			}
		})
		want := whole
		if name == "keys" || name == "accounts" {
			want = list.all(e, 1000, func() {})
		}
		e.same(name+" walked under change", walked, want)
	}
}

func testCursors(e *env) {
	a, b, keysOfA := e.twoAccounts()
	for range 2 {
		_, err := e.SetKeyScope(e.ctx, actor, keysOfA[0], e.name("scope"), true)
		e.ok(err)
	}
	lists := e.walkers(a.ID, keysOfA[0])
	lists["another account's keys"] = e.walkers(b.ID, keysOfA[1])["keys"]
	lists["another account's events"] = e.walkers(b.ID, keysOfA[1])["an account's events"]
	lists["another key's events"] = e.walkers(b.ID, keysOfA[1])["a key's events"]
	for from, source := range lists {
		_, cursor, err := source(keystore.Page{Limit: 1})
		e.ok(err)
		for to, target := range lists {
			if from != to && cursor != "" {
				_, _, err := target(keystore.Page{Limit: 1, After: cursor})
				if err == nil || !isCursor(err) {
					e.Fatalf("a cursor of %s in %s: %v", from, to, err)
				}
			}
		}
		for _, bad := range tampered(cursor) {
			if _, _, err := source(keystore.Page{Limit: 1, After: bad}); !isCursor(err) {
				e.Fatalf("%s with the cursor %q: %v", from, bad, err)
			}
		}
	}
}

// tampered are values that look like the cursor and are not it.
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

	head, facts, err := e.Resolve(e.ctx, nil)
	e.ok(err)
	e.same("facts about nothing", len(facts), 0)
	e.same("revision", head.Revision, orphan.Revision+1)
	e.same("epoch", head.Epoch, e.head().Epoch)
	e.around("now", e.head().Now, head.Now)

	asked := []credential.Digest{s.Digest, digestOf("nobody"), k.Digest, orphan.Digest, revoked.Digest, k.Digest, {}}
	want := []string{s.ID, "", k.ID, orphan.ID, revoked.ID, k.ID, ""}
	for len(asked) < 1000 {
		asked, want = append(asked, digestOf(e.name("nobody"))), append(want, "")
	}
	asked[999], want[999] = k.Digest, k.ID
	head, facts, err = e.Resolve(e.ctx, asked)
	e.ok(err)
	e.same("revision", head.Revision, e.head().Revision)
	got := make([]string, len(facts))
	for i, f := range facts {
		got[i] = f.Record.ID
		if f.Found != (f.Record.ID != "") {
			e.Fatalf("fact %d: %+v", i, f)
		}
	}
	e.same("ids", got, want)
	e.same("an unknown one", facts[1], keystore.Fact{})
	e.same("its account", facts[3].Record.Account, credential.Account{ID: gone.ID, State: credential.Terminated})
	e.same("its own state", facts[3].Record.State, credential.Active)
	e.same("kind", []credential.Kind{facts[0].Record.Kind, facts[2].Record.Kind}, []credential.Kind{credential.Session, credential.Key})

	head, facts, err = e.Resolve(e.ctx, []credential.Digest{digestOf("nobody")})
	e.ok(err)
	e.same("facts about an unknown one alone", facts, []keystore.Fact{{}})
	e.same("revision", head.Revision, e.head().Revision)
}
