package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// calls is every method that takes a context, with arguments that would succeed.
func (e *env) calls() map[string]func(context.Context) error {
	a := e.account()
	k, rolled, s := e.key(a.ID), e.key(a.ID), e.session(a.ID, time.Hour)
	epoch, page := e.head().Epoch, keystore.Page{Limit: 10}
	n, roll := e.newKey(a.ID), e.newRoll(rolled.ID, 0)
	e.poll(keystore.Poll{Sidecar: "forgotten", Epoch: epoch, Lease: time.Hour})
	return map[string]func(context.Context) error{
		"CreateAccount": func(c context.Context) error { _, err := e.CreateAccount(c, actor, "acc_new", "n"); return err },
		"Account":       func(c context.Context) error { _, err := e.Account(c, a.ID); return err },
		"Accounts":      func(c context.Context) error { _, _, err := e.Accounts(c, page); return err },
		"SetAccountState": func(c context.Context) error {
			_, err := e.SetAccountState(c, actor, a.ID, credential.Terminated)
			return err
		},
		"CreateKey":   func(c context.Context) error { _, err := e.CreateKey(c, actor, n); return err },
		"ImportKeys":  func(c context.Context) error { _, err := e.ImportKeys(c, actor, []keystore.NewKey{n}); return err },
		"Key":         func(c context.Context) error { _, err := e.Key(c, k.ID); return err },
		"Keys":        func(c context.Context) error { _, _, err := e.Keys(c, a.ID, page); return err },
		"RevokeKey":   func(c context.Context) error { _, err := e.RevokeKey(c, actor, k.ID, ""); return err },
		"RevokeChain": func(c context.Context) error { _, err := e.RevokeChain(c, actor, k.ID, ""); return err },
		"RollKey":     func(c context.Context) error { _, _, err := e.RollKey(c, actor, roll); return err },
		"SetKeyScope": func(c context.Context) error { _, err := e.SetKeyScope(c, actor, k.ID, "x", true); return err },
		"CreateSession": func(c context.Context) error {
			_, err := e.CreateSession(c, actor, keystore.NewSession{ID: "ses_new", Account: a.ID, Digest: digestOf("new"), TTL: time.Hour})
			return err
		},
		"EndSession": func(c context.Context) error { _, err := e.EndSession(c, actor, s.ID); return err },
		"Events":     func(c context.Context) error { _, _, err := e.Events(c, "", "", page); return err },
		"RecordUsage": func(c context.Context) error {
			return e.RecordUsage(c, "s", []keystore.Usage{{Digest: k.Digest, LastUsedAt: k.CreatedAt}})
		},
		"KeyUsage": func(c context.Context) error {
			_, _, err := e.KeyUsage(c, keystore.UsageSpan{Key: k.ID}, page)
			return err
		},
		"Resolve": func(c context.Context) error { _, _, err := e.Resolve(c, []credential.Digest{k.Digest}); return err },
		"Head":    func(c context.Context) error { _, err := e.Head(c); return err },
		"Changes": func(c context.Context) error { _, _, err := e.Changes(c, epoch, 0, 10); return err },
		"RecordPoll": func(c context.Context) error {
			return record(c, e.Store, keystore.Poll{Sidecar: "s", Epoch: epoch, Lease: time.Minute})
		},
		"Forget":   func(c context.Context) error { _, err := e.Forget(c, actor, "forgotten"); return err },
		"Progress": func(c context.Context) error { _, _, err := e.Progress(c, 1); return err },
		"Leases":   func(c context.Context) error { _, _, err := e.Leases(c); return err },
		"Sidecars": func(c context.Context) error { _, _, _, err := e.Sidecars(c, page); return err },
		"Prune":    func(c context.Context) error { return e.Prune(c, time.Hour) },
		"NewEpoch": func(c context.Context) error { _, err := e.NewEpoch(c, 0); return err },
		"Ping":     func(c context.Context) error { return e.Ping(c) },
	}
}

func testContexts(e *env) {
	calls := e.calls()
	before, events := e.head(), len(e.events())
	canceled, cancel := context.WithCancel(e.ctx)
	cancel()
	late, cancel := context.WithDeadline(e.ctx, time.Now().Add(-time.Second))
	defer cancel()
	for name, call := range calls {
		for _, ctx := range []context.Context{canceled, late, canceled, late} {
			if err := call(ctx); err == nil {
				e.Fatalf("%s succeeded although its context was over", name)
			} else {
				e.is(err, ctx.Err())
			}
			e.ok(e.Prune(e.ctx, time.Hour)) // after a mutation that may have begun
		}
	}
	e.sameHead(before)
	e.same("events", len(e.events()), events)

	// Contexts that end during a call, at any moment, leave the store consistent.
	for name, call := range calls {
		for timeout := 10 * time.Microsecond; ; timeout *= 2 {
			ctx, cancel := context.WithTimeout(e.ctx, timeout)
			err := call(ctx)
			late := ctx.Err()
			cancel()
			if err == nil || inPlace(err) {
				break
			}
			if late == nil || timeout > time.Minute {
				e.Fatalf("%s with %v: %v", name, timeout, err)
			}
		}
	}
	if head, changes, err := e.Changes(e.ctx, e.head().Epoch, 0, 1000); err != nil || int64(len(changes)) != head.Revision {
		e.Fatalf("%d changes up to revision %d: %v", len(changes), head.Revision, err)
	}
}

// inPlace reports whether a call was refused because it, or another one, had been made before.
func inPlace(err error) bool {
	var conflict *keystore.Conflict
	return errors.Is(err, keystore.ErrGone) || errors.Is(err, keystore.ErrNotFound) || errors.As(err, &conflict)
}

// RefuseWhileWriting checks that calls which change nothing end while another call writes: refused calls, and repetitions of
// what is in place. Hold keeps the store writing until release is called. Many refused requests do not delay a revocation.
func RefuseWhileWriting(t *testing.T, h Harness, hold func() (release func())) {
	e := newEnv(t, h)
	a, gone, orphan := e.account(), e.terminated(), e.account()
	k, revoked, ended, left := e.key(a.ID, "s"), e.revoked(a.ID), e.session(a.ID, time.Hour), e.key(orphan.ID)
	e.setState(orphan, credential.Terminated)
	e.end(ended.ID)
	full := e.newKey(a.ID)
	full.Limit = 1
	replaced, _ := e.roll(e.key(a.ID).ID, time.Hour)
	_, old := e.roll(replaced.ID, time.Hour)
	existing := e.newKey(a.ID)
	existing.Digest = k.Digest
	release := hold()
	defer release()
	ctx, cancel := context.WithTimeout(e.ctx, 20*time.Second)
	defer cancel()
	create := func(n keystore.NewKey) func() error {
		return func() error { _, err := e.CreateKey(ctx, actor, n); return err }
	}
	roll := func(id string) func() error {
		r := e.newRoll(id, 0)
		return func() error { _, _, err := e.RollKey(ctx, actor, r); return err }
	}
	for name, call := range map[string]func() error{
		"mint at the limit":                  create(full),
		"mint for no account":                create(e.newKey("acc_none")),
		"mint for a terminated account":      create(e.newKey(gone.ID)),
		"import of a digest that exists":     create(existing),
		"roll of a revoked key":              roll(revoked.ID),
		"roll of a replaced key":             roll(old.ID),
		"roll of a terminated account's key": roll(left.ID),
		"revoke of no key":                   func() error { _, err := e.RevokeKey(ctx, actor, "key_none", ""); return err },
		"revoke of another's key":            func() error { _, err := e.RevokeKey(ctx, actor, k.ID, gone.ID); return err },
		"chain of no key":                    func() error { _, err := e.RevokeChain(ctx, actor, "key_none", ""); return err },
		"grant for a terminated account":     func() error { _, err := e.SetKeyScope(ctx, actor, left.ID, "s", true); return err },
		"account that exists":                func() error { _, err := e.CreateAccount(ctx, actor, a.ID, "x"); return err },
		"session for a terminated account": func() error {
			_, err := e.CreateSession(ctx, actor, keystore.NewSession{ID: "ses_x", Account: gone.ID, TTL: time.Hour})
			return err
		},
	} {
		var g errgroup.Group
		for range 8 {
			g.Go(call)
		}
		if err := g.Wait(); err == nil || ctx.Err() != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	for name, call := range map[string]func() error{
		"revoke again":    func() error { _, err := e.RevokeKey(ctx, actor, revoked.ID, ""); return err },
		"chain again":     func() error { _, err := e.RevokeChain(ctx, actor, revoked.ID, ""); return err },
		"grant again":     func() error { _, err := e.SetKeyScope(ctx, actor, k.ID, "s", true); return err },
		"terminate again": func() error { _, err := e.SetAccountState(ctx, actor, gone.ID, credential.Terminated); return err },
		"end again":       func() error { _, err := e.EndSession(ctx, actor, ended.ID); return err },
	} {
		if err := call(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}
