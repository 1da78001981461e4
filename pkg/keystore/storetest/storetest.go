// Package storetest is the conformance suite of keystore.Store. Run tests every method and guarantee in one process. Crash
// kills a process in the middle of its writes. An engine's own tests add what only that engine can get wrong.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// Harness is one empty store with the means to test it.
type Harness struct {
	Store keystore.Store
	// Reopen closes the store and opens the same data again.
	Reopen func() keystore.Store
	// Advance moves the store's clock, back if negative. The clock may also run.
	Advance func(time.Duration)
	// Close closes the store.
	Close func()
}

// cases are the tests of the suite.
var cases = []struct {
	name string
	test func(*env)
}{
	{"accounts", testAccounts},
	{"account states", testAccountStates},
	{"keys", testKeys},
	{"key refusals", testKeyRefusals},
	{"key limit", testKeyLimit},
	{"import", testImport},
	{"repeated import", testRepeatedImport},
	{"import refusals", testImportRefusals},
	{"import bounds", testImportBounds},
	{"revoke", testRevoke},
	{"roll", testRoll},
	{"roll with grace", testRollGrace},
	{"roll refusals", testRollRefusals},
	{"roll of a chain", testRollChain},
	{"roll of a replaced key", testRollReplaced},
	{"sequential rolls", testSequentialRolls},
	{"concurrent rolls", testConcurrentRolls},
	{"revoke a chain", testRevokeChain},
	{"revoke a chain of one", testRevokeChainOfOne},
	{"scopes of a chain", testScopesOfChain},
	{"scopes up to the bound", testScopesUpToBound},
	{"scopes", testScopes},
	{"sessions", testSessions},
	{"session refusals", testSessionRefusals},
	{"usage", testUsage},
	{"usage hours", testUsageHours},
	{"usage retention", testUsageRetention},
	{"audit", testAudit},
	{"pages", testPages},
	{"pages under change", testPagesUnderChange},
	{"cursors", testCursors},
	{"resolve", testResolve},
	{"changes", testChanges},
	{"polls", testPolls},
	{"concurrent polls", testConcurrentPolls},
	{"poll refusals", testPollRefusals},
	{"poll numbers", testPollNumbers},
	{"leave", testLeave},
	{"leave without a record", testLeaveWithoutRecord},
	{"forget", testForget},
	{"progress under polls", testProgressUnderPolls},
	{"sidecars", testSidecars},
	{"many sidecars", testManySidecars},
	{"prune", testPrune},
	{"new epoch", testNewEpoch},
	{"largest grant", testLargestGrant},
	{"contexts", testContexts},
	{"reopen", testReopen},
	{"writers and followers", testWritersAndFollowers},
}

// Run runs the suite. Each test calls open for a new empty store.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	// The change channel of one store may be closed by another one that shares its database.
	t.Run("changed", func(t *testing.T) { testChanged(newEnv(t, open(t))) })
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.test(newEnv(t, open(t)))
		})
	}
	t.Run("model", func(t *testing.T) {
		t.Parallel()
		testModel(t, open)
	})
}

const actor = "operator:suite"

// env is a store under test with helpers. A helper fails the test if one of its calls fails.
type env struct {
	*testing.T
	keystore.Store
	ctx     context.Context
	harness Harness
	made    int
}

func newEnv(t *testing.T, h Harness) *env {
	t.Cleanup(h.Close)
	return &env{T: t, Store: h.Store, ctx: t.Context(), harness: h}
}

func (e *env) name(prefix string) string {
	e.made++
	return fmt.Sprintf("%s_%d", prefix, e.made)
}

// digestOf is the digest of the credential with that id.
func digestOf(id string) credential.Digest { return credential.NewSecret("secret of " + id).Digest() }

func (e *env) ok(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

func (e *env) is(err, want error) {
	e.Helper()
	if !errors.Is(err, want) {
		e.Fatalf("got error %v, want %v", err, want)
	}
}

func (e *env) conflict(err error) {
	e.Helper()
	var c *keystore.Conflict
	if !errors.As(err, &c) || c.Message == "" {
		e.Fatalf("got error %v, want a Conflict with a message", err)
	}
}

// conflictOf checks that the error is a Conflict with that message.
func (e *env) conflictOf(err error, message string) {
	e.Helper()
	var c *keystore.Conflict
	if !errors.As(err, &c) || c.Message != message {
		e.Fatalf("got error %v, want the Conflict %q", err, message)
	}
}

func (e *env) same(what string, got, want any) {
	e.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		e.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

// around checks that the store's time is t, within what a running clock and the engine's precision may add.
func (e *env) around(what string, got, t time.Time) {
	e.Helper()
	if d := got.Sub(t); d < -time.Millisecond || d > 5*time.Second {
		e.Fatalf("%s is %v, want about %v", what, got, t)
	}
}

func (e *env) head() keystore.Head {
	e.Helper()
	h, err := e.Head(e.ctx)
	e.ok(err)
	return h
}

// sameHead checks the head except its time.
func (e *env) sameHead(want keystore.Head) {
	e.Helper()
	got := e.head()
	got.Now = want.Now
	e.same("head", got, want)
}

func (e *env) account() keystore.Account {
	e.Helper()
	a, err := e.CreateAccount(e.ctx, actor, e.name("acc"), "An account")
	e.ok(err)
	return a
}

func (e *env) terminated() keystore.Account {
	e.Helper()
	return e.setState(e.account(), credential.Terminated)
}

// setState also checks that the account reads as it was returned.
func (e *env) setState(a keystore.Account, state credential.State) keystore.Account {
	e.Helper()
	set, err := e.SetAccountState(e.ctx, actor, a.ID, state)
	e.ok(err)
	got, err := e.Account(e.ctx, a.ID)
	e.ok(err)
	e.same("account as read", got, set)
	return set
}

// newKey is a key with the values that most tests need.
func (e *env) newKey(account string) keystore.NewKey {
	id := e.name("key")
	return keystore.NewKey{ID: id, Account: account, Label: "A label", Hint: "phk_abcd", Digest: digestOf(id)}
}

func (e *env) key(account string, scopes ...string) keystore.Key {
	e.Helper()
	n := e.newKey(account)
	n.Scopes = credential.NewScopes(scopes...)
	return e.create(n)
}

// expiring is a key that expires after d.
func (e *env) expiring(account string, d time.Duration) keystore.Key {
	e.Helper()
	n := e.newKey(account)
	n.ExpiresAt = e.head().Now.Add(d)
	return e.create(n)
}

func (e *env) create(n keystore.NewKey) keystore.Key {
	e.Helper()
	k, err := e.CreateKey(e.ctx, actor, n)
	e.ok(err)
	return k
}

func (e *env) read(id string) keystore.Key {
	e.Helper()
	k, err := e.Key(e.ctx, id)
	e.ok(err)
	return k
}

// reads checks that the key reads as it was returned, alone and in the list.
func (e *env) reads(k keystore.Key) {
	e.Helper()
	e.same("key as read", e.read(k.ID), k)
	listed := slices.DeleteFunc(e.keys(k.Account), func(other keystore.Key) bool { return other.ID != k.ID })
	e.same("key as listed", listed, []keystore.Key{k})
}

func (e *env) revoke(id string) keystore.Key {
	e.Helper()
	k, err := e.RevokeKey(e.ctx, actor, id, "")
	e.ok(err)
	return k
}

func (e *env) revoked(account string) keystore.Key {
	e.Helper()
	return e.revoke(e.key(account).ID)
}

func (e *env) revokeChain(id, account string) keystore.RevokedChain {
	e.Helper()
	chain, err := e.RevokeChain(e.ctx, actor, id, account)
	e.ok(err)
	return chain
}

func (e *env) setScope(id, scope string, granted bool) keystore.Key {
	e.Helper()
	k, err := e.SetKeyScope(e.ctx, actor, id, scope, granted)
	e.ok(err)
	return k
}

func (e *env) session(account string, ttl time.Duration) keystore.Session {
	e.Helper()
	id := e.name("ses")
	s, err := e.CreateSession(e.ctx, actor, keystore.NewSession{ID: id, Account: account, Digest: digestOf(id), TTL: ttl})
	e.ok(err)
	return s
}

func (e *env) end(id string) keystore.Session {
	e.Helper()
	s, err := e.EndSession(e.ctx, actor, id)
	e.ok(err)
	return s
}

// newRoll is a roll with a new successor.
func (e *env) newRoll(id string, grace time.Duration) keystore.Roll {
	next := e.name("key")
	return keystore.Roll{ID: id, NewID: next, Digest: digestOf(next), Hint: "phk_next", Grace: grace}
}

func (e *env) roll(id string, grace time.Duration) (next, replaced keystore.Key) {
	e.Helper()
	next, replaced, err := e.RollKey(e.ctx, actor, e.newRoll(id, grace))
	e.ok(err)
	return next, replaced
}

func (e *env) fact(d credential.Digest) keystore.Fact {
	e.Helper()
	_, facts, err := e.Resolve(e.ctx, []credential.Digest{d})
	e.ok(err)
	if len(facts) != 1 {
		e.Fatalf("%d facts about one digest", len(facts))
	}
	return facts[0]
}

// pages reads all pages of a list.
func pages[T any](e *env, limit int, read func(context.Context, keystore.Page) ([]T, string, error)) []T {
	e.Helper()
	all := []T{}
	for page := (keystore.Page{Limit: limit}); ; {
		part, next, err := read(e.ctx, page)
		e.ok(err)
		all = append(all, part...)
		if page.After = next; next == "" {
			return all
		}
	}
}

func (e *env) keys(account string) []keystore.Key {
	e.Helper()
	return pages(e, 1000, func(ctx context.Context, p keystore.Page) ([]keystore.Key, string, error) {
		return e.Keys(ctx, account, p)
	})
}

func (e *env) events() []keystore.Event {
	e.Helper()
	return pages(e, 1000, func(ctx context.Context, p keystore.Page) ([]keystore.Event, string, error) {
		return e.Events(ctx, "", "", p)
	})
}

// changes reads at most 1000 changes after that revision.
func (e *env) changes(after int64) []keystore.Change {
	e.Helper()
	_, changes, err := e.Changes(e.ctx, e.head().Epoch, after, 1000)
	e.ok(err)
	return changes
}

// effect is what a call has written.
type effect struct {
	changes []keystore.Change
	events  []keystore.Event // newest first
}

func (e *env) effect(do func()) effect {
	e.Helper()
	before, events := e.head().Revision, len(e.events())
	do()
	all := e.events()
	return effect{changes: e.changes(before), events: all[:len(all)-events]}
}

// nothing checks that do writes no change and no event.
func (e *env) nothing(do func()) {
	e.Helper()
	if got := e.effect(do); len(got.changes)+len(got.events) > 0 {
		e.Fatalf("changed %v, wrote %v; want nothing", got.changes, got.events)
	}
}

// one checks that do makes one change, with the revision, and one event. It does not compare the event's At.
func (e *env) one(do func() (revision int64), change keystore.Change, event keystore.Event) {
	e.Helper()
	now := e.head().Now
	got := e.effect(func() { change.Revision = do() })
	e.same("changes", got.changes, []keystore.Change{change})
	e.logged(got, now, event)
}

// logged checks the one event of an effect.
func (e *env) logged(got effect, now time.Time, event keystore.Event) {
	e.Helper()
	if len(got.events) != 1 {
		e.Fatalf("%d events, want one: %v", len(got.events), got.events)
	}
	e.around("the event's time", got.events[0].At, now)
	event.At, event.Actor = got.events[0].At, actor
	if event.Detail == nil {
		event.Detail = map[string]string{}
	}
	e.same("event", got.events[0], event)
}
