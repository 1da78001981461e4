package sqlite

import (
	"context"
	"errors"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// CreateSession implements keystore.Admin.
func (s *Store) CreateSession(ctx context.Context, actor string, n keystore.NewSession) (keystore.Session, error) {
	return mutate(ctx, s, "create session", actor, func(t *tx) (keystore.Session, error) {
		account, err := t.livingAccount(n.Account)
		if err != nil {
			return keystore.Session{}, err
		}
		if err := errors.Join(t.unusedID("sessions", n.ID), t.unusedDigest(n.Digest)); err != nil {
			return keystore.Session{}, err
		}
		session := keystore.Session{
			ID: n.ID, Account: n.Account, Digest: n.Digest, CreatedAt: t.now, ExpiresAt: cut(t.now.Add(n.TTL)),
		}
		t.exec("INSERT INTO sessions (id, account, digest, created_at, expires_at, revision) VALUES (?, ?, ?, ?, ?, 0)",
			session.ID, account, digest(session.Digest), stamp(session.CreatedAt), stamp(session.ExpiresAt))
		t.event(keystore.SessionMint, session.Account, "", map[string]string{
			"session": session.ID, "expires_at": session.ExpiresAt.Format(time.RFC3339Nano),
		})
		return session, nil
	})
}

// EndSession implements keystore.Admin.
func (s *Store) EndSession(ctx context.Context, actor, id string) (keystore.Session, error) {
	return mutate(ctx, s, "end session", actor, func(t *tx) (keystore.Session, error) {
		var session keystore.Session
		err := t.QueryRowContext(ctx, `SELECT s.id, a.id, s.digest, s.created_at, s.expires_at, s.revision
			FROM sessions s JOIN accounts a ON a.seq = s.account WHERE s.id = ?`, id).Scan(
			&session.ID, &session.Account, (*digest)(&session.Digest),
			(*stamp)(&session.CreatedAt), (*stamp)(&session.ExpiresAt), &session.Revision)
		if err != nil || session.Revision != 0 {
			return session, found(err)
		}
		session.Revision = t.changedCredential(session.Digest)
		t.exec("UPDATE sessions SET ended_at = ?, revision = ? WHERE id = ?", stamp(t.now), session.Revision, id)
		t.event(keystore.SessionEnd, session.Account, "", map[string]string{"session": id})
		return session, nil
	})
}
