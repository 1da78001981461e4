package storetest

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// RefuseWhileWriting checks that calls which change nothing end while another call writes:
// refusals, and repetitions of what is so already. Hold keeps the store writing until release
// is called. So many refused requests at once do not hold up a revocation.
func RefuseWhileWriting(t *testing.T, h Harness, hold func() (release func())) {
	e := newEnv(t, h)
	a, gone := e.account(), e.terminated()
	k, revoked, ended := e.key(a.ID, "s"), e.revoked(a.ID), e.session(a.ID, time.Hour)
	orphan := e.account()
	left := e.key(orphan.ID)
	e.setState(orphan, credential.Terminated)
	_, err := e.EndSession(e.ctx, actor, ended.ID)
	e.ok(err)
	full := e.newKey(a.ID)
	full.Limit = 1
	replaced, _ := e.rollTo(e.key(a.ID).ID, time.Hour)
	_, old := e.rollTo(replaced.ID, time.Hour)
	release := hold()
	defer release()
	ctx, cancel := context.WithTimeout(e.ctx, 20*time.Second)
	defer cancel()
	e.ctx = ctx
	create := func(n keystore.NewKey) error { _, err := e.CreateKey(ctx, actor, n); return err }
	roll := func(id string) error { _, _, err := e.RollKey(ctx, actor, e.roll(id, 0)); return err }
	again := e.newKey(a.ID)
	again.Digest = k.Digest
	for name, call := range map[string]func() error{
		"mint at the limit":                  func() error { return create(full) },
		"mint for no account":                func() error { return create(e.newKey("acc_none")) },
		"mint for a terminated account":      func() error { return create(e.newKey(gone.ID)) },
		"import of a digest that exists":     func() error { return create(again) },
		"roll of a revoked key":              func() error { return roll(revoked.ID) },
		"roll of a replaced key":             func() error { return roll(old.ID) },
		"roll of a terminated account's key": func() error { return roll(left.ID) },
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
