package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

const selectAccounts = "SELECT seq, id, name, created_at, terminated_at, revision FROM accounts"

func scanAccount(row Scanner, seq *int64) (keystore.Account, error) {
	a := keystore.Account{State: credential.Active}
	err := row.Scan(seq, &a.ID, &a.Name, (*Stamp)(&a.CreatedAt), (*Stamp)(&a.TerminatedAt), &a.Revision)
	if !a.TerminatedAt.IsZero() {
		a.State = credential.Terminated
	}
	return a, err
}

// accountByID also returns the seq that keys and sessions refer to.
func accountByID(ctx context.Context, q Querier, id string) (a keystore.Account, seq int64, err error) {
	a, err = scanAccount(q.QueryRowContext(ctx, selectAccounts+" WHERE id = ?", id), &seq)
	return a, seq, Found(err)
}

// livingAccount is an account that may get credentials.
func livingAccount(ctx context.Context, q Querier, id string) (seq int64, err error) {
	a, seq, err := accountByID(ctx, q, id)
	if err != nil {
		return 0, err
	}
	return seq, living(a)
}

func living(a keystore.Account) error {
	if a.State != credential.Active {
		return keystore.Conflictf("Account has been terminated: %s", a.ID)
	}
	return nil
}

func unusedAccount(ctx context.Context, q Querier, id string) error {
	switch _, _, err := accountByID(ctx, q, id); {
	case err == nil:
		return keystore.Conflictf("Account exists already: %s", id)
	case !errors.Is(err, keystore.ErrNotFound):
		return err
	}
	return nil
}

// CreateAccount implements keystore.Admin.
func (s *Core) CreateAccount(ctx context.Context, actor, id, name string) (keystore.Account, error) {
	const what = "create account"
	if err := unusedAccount(ctx, s.engine.Reader(), id); err != nil {
		return keystore.Account{}, Failed(ctx, s.engine, what, err)
	}
	return Mutate(ctx, s.engine, what, actor, func(t *Tx) (keystore.Account, error) {
		if err := unusedAccount(t.Ctx, t, id); err != nil {
			return keystore.Account{}, err
		}
		a := keystore.Account{ID: id, Name: name, State: credential.Active, CreatedAt: t.Now}
		a.Revision = t.changedAccount(id)
		t.Exec("INSERT INTO accounts (id, name, created_at, revision) VALUES (?, ?, ?, ?)",
			a.ID, a.Name, Stamp(a.CreatedAt), a.Revision)
		t.event(keystore.AccountCreate, id, "", map[string]string{"name": name})
		return a, nil
	})
}

// Account implements keystore.Admin.
func (s *Core) Account(ctx context.Context, id string) (keystore.Account, error) {
	a, _, err := accountByID(ctx, s.engine.Reader(), id)
	return a, Failed(ctx, s.engine, "account", err)
}

// Accounts implements keystore.Admin.
func (s *Core) Accounts(ctx context.Context, page keystore.Page) ([]keystore.Account, string, error) {
	l := s.listing("accounts")
	after, err := l.begin(page)
	if err != nil {
		return nil, "", err
	}
	all, next, err := list(ctx, s.engine.Reader(), l, page.Limit, scanAccount,
		selectAccounts+" WHERE seq > ? ORDER BY seq LIMIT ?", after, page.Limit+1)
	return all, next, Failed(ctx, s.engine, "accounts", err)
}

// SetAccountState implements keystore.Admin.
func (s *Core) SetAccountState(ctx context.Context, actor, id string, state credential.State) (keystore.Account, error) {
	action := keystore.AccountReinstate
	switch state {
	case credential.Active:
	case credential.Terminated:
		action = keystore.AccountTerminate
	default:
		return keystore.Account{}, fmt.Errorf("set account state: %q is no state of an account", state)
	}
	const what = "set account state"
	a, _, err := accountByID(ctx, s.engine.Reader(), id)
	if err != nil || a.State == state {
		return a, Failed(ctx, s.engine, what, err)
	}
	return Mutate(ctx, s.engine, what, actor, func(t *Tx) (keystore.Account, error) {
		a, seq, err := accountByID(t.Ctx, t, id)
		if err != nil || a.State == state {
			return a, err
		}
		a.State, a.TerminatedAt = state, time.Time{}
		if state == credential.Terminated {
			a.TerminatedAt = t.Now
		}
		a.Revision = t.changedAccount(id)
		t.Exec("UPDATE accounts SET terminated_at = ?, revision = ? WHERE seq = ?", Stamp(a.TerminatedAt), a.Revision, seq)
		t.event(action, id, "", nil)
		return a, nil
	})
}
