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
	a, err = scanAccount(QueryRow(ctx, q, selectAccounts+" WHERE id = ?", id), &seq)
	return a, seq, orNotFound(err)
}

// activeAccount returns a Conflict if the account is terminated.
func activeAccount(ctx context.Context, q Querier, id string) error {
	a, _, err := accountByID(ctx, q, id)
	if err != nil {
		return err
	}
	return checkActive(a)
}

func checkActive(a keystore.Account) error {
	if a.State != credential.Active {
		return accountTerminated(a.ID)
	}
	return nil
}

func accountTerminated(id string) error {
	return keystore.Conflictf("Account has been terminated: %s", id)
}

// CreateAccount implements keystore.Admin.
func (s *Core) CreateAccount(ctx context.Context, actor, id, name string) (keystore.Account, error) {
	return mutation[keystore.Account]{
		what: "create account", actor: actor,
		check: func(ctx context.Context, q Querier, _ time.Time) (a keystore.Account, inPlace bool, err error) {
			switch _, _, err := accountByID(ctx, q, id); {
			case err == nil:
				return a, false, keystore.Conflictf("Account exists already: %s", id)
			case !errors.Is(err, keystore.ErrNotFound):
				return a, false, err
			}
			return a, false, nil
		},
		apply: func(t *Tx, a keystore.Account) (keystore.Account, error) {
			a = keystore.Account{ID: id, Name: name, State: credential.Active, CreatedAt: t.Now, Revision: t.logAccount(id)}
			t.Exec("INSERT INTO accounts (id, name, created_at, revision) VALUES (?, ?, ?, ?)",
				a.ID, a.Name, Stamp(a.CreatedAt), a.Revision)
			t.event(keystore.AccountCreate, id, "", Detail{"name": name})
			return a, nil
		},
	}.run(ctx, s)
}

// Account implements keystore.Admin.
func (s *Core) Account(ctx context.Context, id string) (keystore.Account, error) {
	a, _, err := accountByID(ctx, s.engine.Reader(), id)
	return a, Wrap(ctx, s.engine, "account", err)
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
	return all, next, Wrap(ctx, s.engine, "accounts", err)
}

// SetAccountState implements keystore.Admin.
func (s *Core) SetAccountState(ctx context.Context, actor, id string, state credential.State) (keystore.Account, error) {
	action, ok := map[credential.State]keystore.Action{
		credential.Active: keystore.AccountReinstate, credential.Terminated: keystore.AccountTerminate,
	}[state]
	if !ok {
		return keystore.Account{}, fmt.Errorf("set account state: state %q is invalid: must be active or terminated", state)
	}
	return mutation[keystore.Account]{
		what: "set account state", actor: actor,
		check: func(ctx context.Context, q Querier, _ time.Time) (keystore.Account, bool, error) {
			a, _, err := accountByID(ctx, q, id)
			return a, a.State == state, err
		},
		apply: func(t *Tx, a keystore.Account) (keystore.Account, error) {
			a.State, a.TerminatedAt = state, time.Time{}
			if state == credential.Terminated {
				a.TerminatedAt = t.Now
			}
			a.Revision = t.logAccount(id)
			t.Exec("UPDATE accounts SET terminated_at = ?, revision = ? WHERE id = ?", Stamp(a.TerminatedAt), a.Revision, id)
			t.event(action, id, "", nil)
			return a, nil
		},
	}.run(ctx, s)
}

// CreateSession implements keystore.Admin.
func (s *Core) CreateSession(ctx context.Context, actor string, n keystore.NewSession) (keystore.Session, error) {
	return mutation[keystore.Session]{
		what: "create session", actor: actor,
		check: func(ctx context.Context, q Querier, _ time.Time) (session keystore.Session, inPlace bool, err error) {
			_, err = checkNew(ctx, q, "sessions", n.ID, n.Account, n.Digest)
			return session, false, err
		},
		apply: func(t *Tx, _ keystore.Session) (keystore.Session, error) {
			session := keystore.Session{
				ID: n.ID, Account: n.Account, Digest: n.Digest, CreatedAt: t.Now, ExpiresAt: Cut(t.Now.Add(n.TTL)),
			}
			t.Exec(`INSERT INTO sessions (id, account, digest, created_at, expires_at, revision)
				VALUES (?, (SELECT seq FROM accounts WHERE id = ?), ?, ?, ?, 0)`,
				session.ID, session.Account, Digest(session.Digest), Stamp(session.CreatedAt), Stamp(session.ExpiresAt))
			t.event(keystore.SessionMint, session.Account, "", Detail{
				"session": session.ID, "expires_at": session.ExpiresAt.Format(time.RFC3339Nano),
			})
			return session, nil
		},
	}.run(ctx, s)
}

// EndSession implements keystore.Admin.
func (s *Core) EndSession(ctx context.Context, actor, id string) (keystore.Session, error) {
	return mutation[keystore.Session]{
		what: "end session", actor: actor,
		check: func(ctx context.Context, q Querier, _ time.Time) (session keystore.Session, ended bool, err error) {
			err = QueryRow(ctx, q, `SELECT s.id, a.id, s.digest, s.created_at, s.expires_at, s.revision
				FROM sessions s JOIN accounts a ON a.seq = s.account WHERE s.id = ?`, id).Scan(
				&session.ID, &session.Account, (*Digest)(&session.Digest),
				(*Stamp)(&session.CreatedAt), (*Stamp)(&session.ExpiresAt), &session.Revision)
			return session, session.Revision != 0, orNotFound(err)
		},
		apply: func(t *Tx, session keystore.Session) (keystore.Session, error) {
			session.Revision = t.logCredential(session.Digest)
			t.Exec("UPDATE sessions SET ended_at = ?, revision = ? WHERE id = ?", Stamp(t.Now), session.Revision, id)
			t.event(keystore.SessionEnd, session.Account, "", Detail{"session": id})
			return session, nil
		},
	}.run(ctx, s)
}
