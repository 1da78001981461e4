package storetest

import (
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

func testAccounts(e *env) {
	now := e.head().Now
	var a keystore.Account
	e.one(func() int64 {
		var err error
		a, err = e.CreateAccount(e.ctx, actor, "acc_Ünïcode? no: ids are the caller's", "Näme")
		e.ok(err)
		return a.Revision
	}, keystore.Change{Account: "acc_Ünïcode? no: ids are the caller's"}, keystore.Event{
		Action: keystore.AccountCreate, Account: "acc_Ünïcode? no: ids are the caller's",
		Detail: map[string]string{"name": "Näme"},
	})
	e.around("created", a.CreatedAt, now)
	e.same("account", a, keystore.Account{
		ID: "acc_Ünïcode? no: ids are the caller's", Name: "Näme", State: credential.Active, CreatedAt: a.CreatedAt, Revision: a.Revision,
	})
	got, err := e.Account(e.ctx, a.ID)
	e.ok(err)
	e.same("account as read", got, a)

	e.nothing(func() {
		_, err := e.CreateAccount(e.ctx, actor, a.ID, "Another")
		e.conflict(err)
		_, err = e.Account(e.ctx, "acc_none")
		e.is(err, keystore.ErrNotFound)
	})
	got, err = e.Account(e.ctx, a.ID)
	e.ok(err)
	e.same("account after a conflict", got, a)
}

func testAccountStates(e *env) {
	a := e.account()
	e.nothing(func() { e.setState(a, credential.Active) })

	e.harness.Advance(time.Minute)
	now := e.head().Now
	want := a
	e.one(func() int64 {
		a = e.setState(a, credential.Terminated)
		return a.Revision
	}, keystore.Change{Account: a.ID}, keystore.Event{Action: keystore.AccountTerminate, Account: a.ID})
	e.around("terminated", a.TerminatedAt, now)
	want.State, want.TerminatedAt, want.Revision = credential.Terminated, a.TerminatedAt, a.Revision
	e.same("account", a, want)

	e.harness.Advance(time.Minute)
	e.nothing(func() { e.same("terminated again", e.setState(a, credential.Terminated), a) })

	e.one(func() int64 {
		a = e.setState(a, credential.Active)
		return a.Revision
	}, keystore.Change{Account: a.ID}, keystore.Event{Action: keystore.AccountReinstate, Account: a.ID})
	want.State, want.TerminatedAt, want.Revision = credential.Active, time.Time{}, a.Revision
	e.same("account", a, want)

	e.nothing(func() {
		_, err := e.SetAccountState(e.ctx, actor, "acc_none", credential.Terminated)
		e.is(err, keystore.ErrNotFound)
		if _, err := e.SetAccountState(e.ctx, actor, a.ID, credential.Revoked); err == nil {
			e.Fatal("an account was revoked")
		}
		if _, err := e.SetAccountState(e.ctx, actor, a.ID, 0); err == nil {
			e.Fatal("an account got the state that is none")
		}
	})
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
