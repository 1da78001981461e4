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
	create := func(n keystore.NewKey) func() error {
		return func() error { _, err := e.CreateKey(ctx, actor, n); return err }
	}
	roll := func(id string) func() error {
		r := e.roll(id, 0)
		return func() error { _, _, err := e.RollKey(ctx, actor, r); return err }
	}
	again := e.newKey(a.ID)
	again.Digest = k.Digest
	for name, call := range map[string]func() error{
		"mint at the limit":                  create(full),
		"mint for no account":                create(e.newKey("acc_none")),
		"mint for a terminated account":      create(e.newKey(gone.ID)),
		"import of a digest that exists":     create(again),
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
	e.repeatWhileWriting(k.ID, revoked.ID, ended.ID, gone.ID)
}

// repeatWhileWriting makes changes that are made already: of a key with the scope s, a key that is revoked, a
// session that has ended, and an account that is terminated.
func (e *env) repeatWhileWriting(key, revoked, ended, gone string) {
	e.Helper()
	for name, call := range map[string]func() error{
		"revoke again":    func() error { _, err := e.RevokeKey(e.ctx, actor, revoked, ""); return err },
		"chain again":     func() error { _, err := e.RevokeChain(e.ctx, actor, revoked, ""); return err },
		"grant again":     func() error { _, err := e.SetKeyScope(e.ctx, actor, key, "s", true); return err },
		"terminate again": func() error { _, err := e.SetAccountState(e.ctx, actor, gone, credential.Terminated); return err },
		"end again":       func() error { _, err := e.EndSession(e.ctx, actor, ended); return err },
	} {
		if err := call(); err != nil {
			e.Fatalf("%s: %v", name, err)
		}
	}
}
