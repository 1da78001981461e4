package sqlite

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

const selectAccounts = "SELECT seq, id, name, created_at, terminated_at, revision FROM accounts"

func scanAccount(row scanner, seq *int64) (keystore.Account, error) {
	a := keystore.Account{State: credential.Active}
	err := row.Scan(seq, &a.ID, &a.Name, (*stamp)(&a.CreatedAt), (*stamp)(&a.TerminatedAt), &a.Revision)
	if !a.TerminatedAt.IsZero() {
		a.State = credential.Terminated
	}
	return a, err
}

// accountByID also returns the seq that keys and sessions refer to.
func accountByID(ctx context.Context, q querier, id string) (a keystore.Account, seq int64, err error) {
	a, err = scanAccount(q.QueryRowContext(ctx, selectAccounts+" WHERE id = ?", id), &seq)
	return a, seq, found(err)
}

// livingAccount is an account that may get credentials.
func (t *tx) livingAccount(id string) (seq int64, err error) {
	a, seq, err := accountByID(t.ctx, t, id)
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

// CreateAccount implements keystore.Admin.
func (s *Store) CreateAccount(ctx context.Context, actor, id, name string) (keystore.Account, error) {
	return mutate(ctx, s, "create account", actor, func(t *tx) (keystore.Account, error) {
		switch _, _, err := accountByID(t.ctx, t, id); {
		case err == nil:
			return keystore.Account{}, keystore.Conflictf("Account exists already: %s", id)
		case !errors.Is(err, keystore.ErrNotFound):
			return keystore.Account{}, err
		}
		a := keystore.Account{ID: id, Name: name, State: credential.Active, CreatedAt: t.now}
		a.Revision = t.changedAccount(id)
		t.exec("INSERT INTO accounts (id, name, created_at, revision) VALUES (?, ?, ?, ?)",
			a.ID, a.Name, stamp(a.CreatedAt), a.Revision)
		t.event(keystore.AccountCreate, id, "", map[string]string{"name": name})
		return a, nil
	})
}

// Account implements keystore.Admin.
func (s *Store) Account(ctx context.Context, id string) (keystore.Account, error) {
	a, _, err := accountByID(ctx, s.readers, id)
	return a, failed(ctx, "account", err)
}

// Accounts implements keystore.Admin.
func (s *Store) Accounts(ctx context.Context, page keystore.Page) ([]keystore.Account, string, error) {
	l := s.listing("accounts")
	after, err := l.begin(page)
	if err != nil {
		return nil, "", err
	}
	all, next, err := list(ctx, s.readers, l, page.Limit, scanAccount,
		selectAccounts+" WHERE seq > ? ORDER BY seq LIMIT ?", after, page.Limit+1)
	return all, next, failed(ctx, "accounts", err)
}

// SetAccountState implements keystore.Admin.
func (s *Store) SetAccountState(ctx context.Context, actor, id string, state credential.State) (keystore.Account, error) {
	action := keystore.AccountReinstate
	switch state {
	case credential.Active:
	case credential.Terminated:
		action = keystore.AccountTerminate
	default:
		return keystore.Account{}, fmt.Errorf("sqlite: set account state: %q is no state of an account", state)
	}
	return mutate(ctx, s, "set account state", actor, func(t *tx) (keystore.Account, error) {
		a, seq, err := accountByID(t.ctx, t, id)
		if err != nil || a.State == state {
			return a, err
		}
		a.State, a.TerminatedAt = state, time.Time{}
		if state == credential.Terminated {
			a.TerminatedAt = t.now
		}
		a.Revision = t.changedAccount(id)
		t.exec("UPDATE accounts SET terminated_at = ?, revision = ? WHERE seq = ?", stamp(a.TerminatedAt), a.Revision, seq)
		t.event(action, id, "", nil)
		return a, nil
	})
}
