package storetest

import (
	"context"
	"errors"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// calls is every method that takes a context, with arguments that would succeed.
func (e *env) calls() map[string]func(context.Context) error {
	a := e.account()
	k, rolled, s := e.key(a.ID), e.key(a.ID), e.session(a.ID, time.Hour)
	epoch, page := e.head().Epoch, keystore.Page{Limit: 10}
	n, roll := e.newKey(a.ID), e.roll(rolled.ID, 0)
	e.poll(keystore.Poll{Sidecar: "forgotten", Epoch: epoch, Lease: time.Hour})
	return map[string]func(context.Context) error{
		"CreateAccount": func(c context.Context) error { _, err := e.CreateAccount(c, actor, "acc_new", "n"); return err },
		"Account":       func(c context.Context) error { _, err := e.Account(c, a.ID); return err },
		"Accounts":      func(c context.Context) error { _, _, err := e.Accounts(c, page); return err },
		"SetAccountState": func(c context.Context) error {
			_, err := e.SetAccountState(c, actor, a.ID, credential.Terminated)
			return err
		},
		"CreateKey": func(c context.Context) error { _, err := e.CreateKey(c, actor, n); return err },
		"ImportKeys": func(c context.Context) error {
			_, err := e.ImportKeys(c, actor, []keystore.NewKey{n})
			return err
		},
		"Key":         func(c context.Context) error { _, err := e.Key(c, k.ID); return err },
		"Keys":        func(c context.Context) error { _, _, err := e.Keys(c, a.ID, page); return err },
		"RevokeKey":   func(c context.Context) error { _, err := e.RevokeKey(c, actor, k.ID, ""); return err },
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
		"Leases":   func(c context.Context) error { _, err := e.Leases(c); return err },
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
			e.ok(e.Prune(e.ctx, time.Hour)) // behind whatever was begun all the same
		}
	}
	after := e.head()
	after.Now = before.Now
	e.same("head", after, before)
	e.same("events", len(e.events()), events)

	// Contexts that end in the middle, at any moment, leave the store whole.
	for name, call := range calls {
		for timeout := 10 * time.Microsecond; ; timeout *= 2 {
			ctx, cancel := context.WithTimeout(e.ctx, timeout)
			err := call(ctx)
			late := ctx.Err()
			cancel()
			if err == nil {
				break
			}
			if late == nil && !inTheWay(err) || timeout > time.Minute {
				e.Fatalf("%s with %v: %v", name, timeout, err)
			}
			if inTheWay(err) {
				break
			}
		}
	}
	if head, changes, err := e.Changes(e.ctx, e.head().Epoch, 0, 1000); err != nil || int64(len(changes)) != head.Revision {
		e.Fatalf("%d changes up to revision %d: %v", len(changes), head.Revision, err)
	}
}

// inTheWay is the error of a call after another one, or itself, had been done.
func inTheWay(err error) bool {
	var conflict *keystore.Conflict
	return errors.Is(err, keystore.ErrGone) || errors.Is(err, keystore.ErrNotFound) || errors.As(err, &conflict)
}
