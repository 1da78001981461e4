package sqlstore

import (
	"context"
	"errors"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// CreateSession implements keystore.Admin.
func (s *Core) CreateSession(ctx context.Context, actor string, n keystore.NewSession) (keystore.Session, error) {
	return Mutate(ctx, s.engine, "create session", actor, func(t *Tx) (keystore.Session, error) {
		account, err := t.livingAccount(n.Account)
		if err != nil {
			return keystore.Session{}, err
		}
		if err := errors.Join(t.unusedID("sessions", n.ID), t.unusedDigest(n.Digest)); err != nil {
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

// EndSession implements keystore.Admin.
func (s *Core) EndSession(ctx context.Context, actor, id string) (keystore.Session, error) {
	return Mutate(ctx, s.engine, "end session", actor, func(t *Tx) (keystore.Session, error) {
		var session keystore.Session
		err := t.QueryRowContext(ctx, `SELECT s.id, a.id, s.digest, s.created_at, s.expires_at, s.revision
			FROM sessions s JOIN accounts a ON a.seq = s.account WHERE s.id = ?`, id).Scan(
			&session.ID, &session.Account, (*Digest)(&session.Digest),
			(*Stamp)(&session.CreatedAt), (*Stamp)(&session.ExpiresAt), &session.Revision)
		if err != nil || session.Revision != 0 {
			return session, Found(err)
		}
		session.Revision = t.changedCredential(session.Digest)
		t.Exec("UPDATE sessions SET ended_at = ?, revision = ? WHERE id = ?", Stamp(t.Now), session.Revision, id)
		t.event(keystore.SessionEnd, session.Account, "", map[string]string{"session": id})
		return session, nil
	})
}
