// Package storetest is the conformance suite of keystore.Store: what the comments
// there promise, an engine shows here. Run holds every method and promise against
// one process; Crash kills a process in the middle of its writes. An engine's own
// tests add what only that engine can get wrong.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// Harness is one empty store and what a test may do to it from outside.
type Harness struct {
	Store keystore.Store
	// Reopen closes the store and opens the same data again.
	Reopen func() keystore.Store
	// Advance moves the store's clock, back too. The clock may also run by itself.
	Advance func(time.Duration)
	// Close closes the store.
	Close func()
}

// Run runs the suite. Each test calls open for an empty store of its own.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	tests := []struct {
		name string
		test func(*env)
	}{
		{"accounts", testAccounts},
		{"account states", testAccountStates},
		{"keys", testKeys},
		{"key refusals", testKeyRefusals},
		{"key limit", testKeyLimit},
		{"import", testImport},
		{"import again", testImportAgain},
		{"import refusals", testImportRefusals},
		{"import bounds", testImportBounds},
		{"revoke", testRevoke},
		{"roll", testRoll},
		{"roll with grace", testRollGrace},
		{"roll refusals", testRollRefusals},
		{"roll of a chain", testRollChain},
		{"roll of a replaced key", testRollReplaced},
		{"many rolls in a row", testRollsInARow},
		{"many rolls at once", testRollsAtOnce},
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
		{"changed", testChanged},
		{"polls", testPolls},
		{"polls at once", testPollsAtOnce},
		{"poll refusals", testPollRefusals},
		{"poll numbers", testPollNumbers},
		{"leave", testLeave},
		{"leave without a record", testLeaveWithoutRecord},
		{"forget", testForget},
		{"told under polls", testToldUnderPolls},
		{"sidecars", testSidecars},
		{"many sidecars", testCrowd},
		{"prune", testPrune},
		{"new epoch", testNewEpoch},
		{"largest grant", testLargestGrant},
		{"contexts", testContexts},
		{"reopen", testReopen},
		{"writers and followers", testWritersAndFollowers},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.test(newEnv(t, open(t))) })
	}
	t.Run("model", func(t *testing.T) { testModel(t, open) })
}

const actor = "operator:suite"

// env is a store under test with the words that the tests speak in. Whatever it
// does of its own must succeed.
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

func (e *env) same(what string, got, want any) {
	e.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		e.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

// around tells whether a time that the store gave is t, within what a running
// clock and the engine's precision may add.
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

func (e *env) account() keystore.Account {
	e.Helper()
	a, err := e.CreateAccount(e.ctx, actor, e.name("acc"), "An account")
	e.ok(err)
	return a
}

func (e *env) terminated() keystore.Account {
	e.Helper()
	a, err := e.SetAccountState(e.ctx, actor, e.account().ID, credential.Terminated)
	e.ok(err)
	return a
}

// newKey is a key as most tests want it.
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

func (e *env) create(n keystore.NewKey) keystore.Key {
	e.Helper()
	k, err := e.CreateKey(e.ctx, actor, n)
	e.ok(err)
	return k
}

func (e *env) revoked(account string) keystore.Key {
	e.Helper()
	k, err := e.RevokeKey(e.ctx, actor, e.key(account).ID, "")
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

func (e *env) roll(id string, grace time.Duration) keystore.Roll {
	next := e.name("key")
	return keystore.Roll{ID: id, NewID: next, Digest: digestOf(next), Hint: "phk_next", Grace: grace}
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

func (e *env) events() []keystore.Event {
	e.Helper()
	events, next, err := e.Events(e.ctx, "", "", keystore.Page{Limit: 1000})
	e.ok(err)
	if next != "" {
		e.Fatal("the test makes more events than a page holds")
	}
	return events
}

// effect is what a call left behind.
type effect struct {
	changes []keystore.Change
	events  []keystore.Event // newest first
}

// effect runs do and returns its changes and events.
func (e *env) effect(do func()) effect {
	e.Helper()
	before, events := e.head(), len(e.events())
	do()
	_, changes, err := e.Changes(e.ctx, before.Epoch, before.Revision, 1000)
	e.ok(err)
	all := e.events()
	return effect{changes: changes, events: all[:len(all)-events]}
}

// nothing checks that do leaves no trace.
func (e *env) nothing(do func()) {
	e.Helper()
	if got := e.effect(do); len(got.changes)+len(got.events) > 0 {
		e.Fatalf("changed %v, wrote %v; want nothing", got.changes, got.events)
	}
}

// one checks that do makes the one change, with the revision, and the one event,
// whose At is not compared.
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
