package sqlstore

import (
	"context"
	"errors"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// CreateSession implements keystore.Admin.
func (s *Core) CreateSession(ctx context.Context, actor string, n keystore.NewSession) (keystore.Session, error) {
	const what = "create session"
	if _, err := mayCreateSession(ctx, s.engine.Reader(), n); err != nil {
		return keystore.Session{}, Failed(ctx, s.engine, what, err)
	}
	return Mutate(ctx, s.engine, what, actor, func(t *Tx) (keystore.Session, error) {
		account, err := mayCreateSession(t.Ctx, t, n)
		if err != nil {
			return keystore.Session{}, err
		}
		session := keystore.Session{
			ID: n.ID, Account: n.Account, Digest: n.Digest, CreatedAt: t.Now, ExpiresAt: Cut(t.Now.Add(n.TTL)),
		}
		t.Exec("INSERT INTO sessions (id, account, digest, created_at, expires_at, revision) VALUES (?, ?, ?, ?, ?, 0)",
			session.ID, account, Digest(session.Digest), Stamp(session.CreatedAt), Stamp(session.ExpiresAt))
		t.event(keystore.SessionMint, session.Account, "", map[string]string{
			"session": session.ID, "expires_at": session.ExpiresAt.Format(time.RFC3339Nano),
		})
		return session, nil
	})
}

// mayCreateSession returns the seq of the account that the session is for, or why there can be no
// such session.
func mayCreateSession(ctx context.Context, q Querier, n keystore.NewSession) (account int64, err error) {
	if account, err = livingAccount(ctx, q, n.Account); err != nil {
		return 0, err
	}
	return account, errors.Join(unusedID(ctx, q, "sessions", n.ID), unusedDigest(ctx, q, n.Digest))
}

func sessionByID(ctx context.Context, q Querier, id string) (session keystore.Session, err error) {
	err = q.QueryRowContext(ctx, `SELECT s.id, a.id, s.digest, s.created_at, s.expires_at, s.revision
		FROM sessions s JOIN accounts a ON a.seq = s.account WHERE s.id = ?`, id).Scan(
		&session.ID, &session.Account, (*Digest)(&session.Digest),
		(*Stamp)(&session.CreatedAt), (*Stamp)(&session.ExpiresAt), &session.Revision)
	return session, Found(err)
}

// EndSession implements keystore.Admin. A session that has ended already needs no transaction.
func (s *Core) EndSession(ctx context.Context, actor, id string) (keystore.Session, error) {
	const what = "end session"
	session, err := sessionByID(ctx, s.engine.Reader(), id)
	if err != nil || session.Revision != 0 {
		return session, Failed(ctx, s.engine, what, err)
	}
	return Mutate(ctx, s.engine, what, actor, func(t *Tx) (keystore.Session, error) {
		session, err := sessionByID(t.Ctx, t, id)
		if err != nil || session.Revision != 0 {
			return session, err
		}
		session.Revision = t.changedCredential(session.Digest)
		t.Exec("UPDATE sessions SET ended_at = ?, revision = ? WHERE id = ?", Stamp(t.Now), session.Revision, id)
		t.event(keystore.SessionEnd, session.Account, "", map[string]string{"session": id})
		return session, nil
	})
}
