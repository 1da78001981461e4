package storetest

import (
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

func testAccounts(e *env) {
	const id = "acc_Ünïcode? no: ids are the caller's"
	now := e.head().Now
	var a keystore.Account
	e.one(func() int64 {
		var err error
		a, err = e.CreateAccount(e.ctx, actor, id, "Näme")
		e.ok(err)
		return a.Revision
	}, keystore.Change{Account: id}, keystore.Event{Action: keystore.AccountCreate, Account: id, Detail: map[string]string{"name": "Näme"}})
	e.around("created", a.CreatedAt, now)
	e.same("account", a, keystore.Account{ID: id, Name: "Näme", State: credential.Active, CreatedAt: a.CreatedAt, Revision: a.Revision})
	e.nothing(func() {
		_, err := e.CreateAccount(e.ctx, actor, id, "Another")
		e.conflict(err)
		_, err = e.Account(e.ctx, "acc_none")
		e.is(err, keystore.ErrNotFound)
	})
	got, err := e.Account(e.ctx, id)
	e.ok(err)
	e.same("account after a conflict", got, a)
}

func testAccountStates(e *env) {
	a := e.account()
	e.nothing(func() { e.setState(a, credential.Active) })

	e.harness.Advance(time.Minute)
	now := e.head().Now
	want := a
	set := func(state credential.State, action keystore.Action) {
		e.Helper()
		e.one(func() int64 {
			a = e.setState(a, state)
			return a.Revision
		}, keystore.Change{Account: a.ID}, keystore.Event{Action: action, Account: a.ID})
		want.State, want.TerminatedAt, want.Revision = state, a.TerminatedAt, a.Revision
		e.same("account", a, want)
		e.harness.Advance(time.Minute)
		e.nothing(func() { e.same("set again", e.setState(a, state), a) })
	}
	set(credential.Terminated, keystore.AccountTerminate)
	e.around("terminated", a.TerminatedAt, now)
	set(credential.Active, keystore.AccountReinstate)
	e.same("terminated", a.TerminatedAt, time.Time{})

	e.nothing(func() {
		_, err := e.SetAccountState(e.ctx, actor, "acc_none", credential.Terminated)
		e.is(err, keystore.ErrNotFound)
		for _, invalid := range []credential.State{credential.Revoked, 0} {
			if _, err := e.SetAccountState(e.ctx, actor, a.ID, invalid); err == nil {
				e.Fatalf("an account got the state %v", invalid)
			}
		}
	})
}

func testSessions(e *env) {
	a := e.account()
	now := e.head().Now
	var s keystore.Session
	got := e.effect(func() { s = e.session(a.ID, time.Hour) })
	e.same("changes", len(got.changes), 0)
	e.logged(got, now, keystore.Event{Action: keystore.SessionMint, Account: a.ID, Detail: map[string]string{
		"session": s.ID, "expires_at": s.ExpiresAt.Format(time.RFC3339Nano),
	}})
	e.around("created", s.CreatedAt, now)
	e.around("expires", s.ExpiresAt, now.Add(time.Hour))
	want := keystore.Session{ID: s.ID, Account: a.ID, Digest: digestOf(s.ID), CreatedAt: s.CreatedAt, ExpiresAt: s.ExpiresAt}
	e.same("session", s, want)
	fact := keystore.Fact{Found: true, Record: credential.Record{
		Kind: credential.Session, ID: s.ID, State: credential.Active, ExpiresAt: s.ExpiresAt,
		Account: credential.Account{ID: a.ID, State: credential.Active},
	}}
	e.same("fact", e.fact(s.Digest), fact)

	e.harness.Advance(time.Minute)
	e.one(func() int64 {
		s = e.end(s.ID)
		return s.Revision
	}, keystore.Change{Digest: s.Digest}, keystore.Event{
		Action: keystore.SessionEnd, Account: a.ID, Detail: map[string]string{"session": s.ID},
	})
	want.Revision = s.Revision
	e.same("session", s, want)
	fact.Record.State = credential.Revoked
	e.same("fact of an ended one", e.fact(s.Digest), fact)
	e.nothing(func() { e.same("ended again", e.end(s.ID), s) })
}

func testSessionRefusals(e *env) {
	a, gone := e.account(), e.terminated()
	s, k := e.session(a.ID, time.Hour), e.key(a.ID)
	unused := digestOf("ses_x")
	refused := func(id, account string, d credential.Digest) error {
		_, err := e.CreateSession(e.ctx, actor, keystore.NewSession{ID: id, Account: account, Digest: d, TTL: time.Hour})
		return err
	}
	e.nothing(func() {
		e.is(refused("ses_x", "acc_none", unused), keystore.ErrNotFound)
		e.conflict(refused("ses_x", gone.ID, unused))
		e.conflict(refused("ses_x", a.ID, s.Digest))
		e.conflict(refused("ses_x", a.ID, k.Digest))
		e.conflict(refused(s.ID, a.ID, unused))
		_, err := e.EndSession(e.ctx, actor, "ses_x")
		e.is(err, keystore.ErrNotFound)
	})
	e.same("found", e.fact(unused).Found, false)

	e.setState(a, credential.Terminated)
	e.same("the account's state", e.fact(s.Digest).Record.Account.State, credential.Terminated)
	e.end(s.ID) // allowed for a terminated account
}
