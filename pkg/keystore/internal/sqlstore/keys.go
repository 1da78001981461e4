package sqlstore

import (
	"context"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// selectKeys reads the account's id by a subquery, because planning a join costs more.
const selectKeys = `SELECT k.seq, k.id, (SELECT id FROM accounts WHERE seq = k.account), k.digest, k.label, k.hint, k.scopes,
	k.created_at, k.created_by, k.expires_at, k.revoked_at, k.last_used_at, k.replaced_by, k.chain, k.revision
	FROM keys k`

func scanKey(row Scanner, seq *int64) (keystore.Key, error) {
	k := keystore.Key{State: credential.Active}
	err := row.Scan(seq, &k.ID, &k.Account, (*Digest)(&k.Digest), &k.Label, &k.Hint, (*Scopes)(&k.Scopes),
		(*Stamp)(&k.CreatedAt), &k.CreatedBy, (*Stamp)(&k.ExpiresAt), (*Stamp)(&k.RevokedAt), (*Stamp)(&k.LastUsedAt),
		(*Text)(&k.ReplacedBy), (*Text)(&k.Chain), &k.Revision)
	if !k.RevokedAt.IsZero() {
		k.State = credential.Revoked
	}
	return k, err
}

// keyOf returns the key if it belongs to the account, or to any account if that is "".
func keyOf(ctx context.Context, q Querier, id, account string) (keystore.Key, error) {
	var seq int64
	k, err := scanKey(QueryRow(ctx, q, selectKeys+" WHERE k.id = ?", id), &seq)
	if err == nil && account != "" && k.Account != account {
		return keystore.Key{}, keystore.ErrNotFound
	}
	return k, orNotFound(err)
}

// CreateKey implements keystore.Admin.
func (s *Core) CreateKey(ctx context.Context, actor string, n keystore.NewKey) (keystore.Key, error) {
	return mutation[keystore.Key]{
		what: "create key", actor: actor, timed: n.Limit > 0,
		check: func(ctx context.Context, q Querier, now time.Time) (k keystore.Key, inPlace bool, err error) {
			account, err := checkNew(ctx, q, "keys", n.ID, n.Account, n.Digest)
			if err == nil {
				err = checkLimit(ctx, q, account, n.Limit, now)
			}
			return k, false, err
		},
		apply: func(t *Tx, _ keystore.Key) (keystore.Key, error) {
			k := t.InsertKey(t.newKey(n))
			action := keystore.KeyMint
			if n.Imported {
				action = keystore.KeyImport
			}
			t.event(action, k.Account, k.ID, newKeyDetail(k))
			return k, nil
		},
	}.run(ctx, s)
}

// newKey is the new key without its revision.
func (t *Tx) newKey(n keystore.NewKey) keystore.Key {
	return keystore.Key{
		ID: n.ID, Account: n.Account, Digest: n.Digest, Label: n.Label, Hint: n.Hint, Scopes: n.Scopes,
		State: credential.Active, CreatedAt: t.Now, CreatedBy: t.Actor, ExpiresAt: Cut(n.ExpiresAt),
	}
}

// newKeyDetail is the detail of a new key's event.
func newKeyDetail(k keystore.Key) Detail {
	fields := Detail{"label": k.Label, "scopes": k.Scopes.String()}
	if !k.ExpiresAt.IsZero() {
		fields["expires_at"] = k.ExpiresAt.Format(time.RFC3339Nano)
	}
	return fields
}

// checkNew returns the seq of the account that gets a new credential. It is a Conflict if the account is terminated, if the
// table, keys or sessions, has the id, or if a key or a session has the digest.
func checkNew(ctx context.Context, q Querier, table, id, account string, d credential.Digest) (seq int64, err error) {
	var terminated, hasID, hasDigest bool
	err = QueryRow(ctx, q, "SELECT seq, terminated_at IS NOT NULL, EXISTS (SELECT 1 FROM "+table+` WHERE id = ?2),
		EXISTS (SELECT 1 FROM keys WHERE digest = ?3) OR EXISTS (SELECT 1 FROM sessions WHERE digest = ?3)
		FROM accounts WHERE id = ?1`, account, id, Digest(d)).Scan(&seq, &terminated, &hasID, &hasDigest)
	switch {
	case err != nil:
		return 0, orNotFound(err)
	case terminated:
		return 0, accountTerminated(account)
	case hasID:
		return 0, idExists(id)
	case hasDigest:
		return 0, digestExists()
	}
	return seq, nil
}

func idExists(id string) error { return keystore.Conflictf("This id exists already: %s", id) }

func digestExists() error { return keystore.Conflictf("A credential with this SHA-256 exists already") }

// CountInForce counts an account's keys (?1) that are in force at a moment (?2), up to a limit (?3) or twice the limit.
// Each part is a range of the index keys_in_force, so revoked and expired keys cost nothing.
const CountInForce = `SELECT
	(SELECT count(*) FROM (SELECT 1 FROM keys WHERE account = ?1 AND revoked_at IS NULL AND expires_at IS NULL LIMIT ?3) AS lasting) +
	(SELECT count(*) FROM (SELECT 1 FROM keys WHERE account = ?1 AND revoked_at IS NULL AND expires_at > ?2 LIMIT ?3) AS ending)`

// checkLimit returns a Conflict if the account has reached the limit of keys in force. A limit of 0 is none.
func checkLimit(ctx context.Context, q Querier, account int64, limit int, now time.Time) error {
	if limit == 0 {
		return nil
	}
	var keys int
	err := QueryRow(ctx, q, CountInForce, account, Stamp(now), limit).Scan(&keys)
	if err == nil && keys >= limit {
		return keystore.Conflictf("At most %d keys that are neither revoked nor expired", limit)
	}
	return err
}

// InsertKey inserts the key and returns it with its revision.
func (t *Tx) InsertKey(k keystore.Key) keystore.Key {
	k.Revision = t.logCredential(k.Digest)
	t.Exec(`INSERT INTO keys (id, account, digest, label, hint, scopes, created_at, created_by, expires_at, chain, revision)
		VALUES (?, (SELECT seq FROM accounts WHERE id = ?), ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		k.ID, k.Account, Digest(k.Digest), k.Label, k.Hint, Scopes(k.Scopes), Stamp(k.CreatedAt), k.CreatedBy,
		Stamp(k.ExpiresAt), Text(k.Chain), k.Revision)
	return k
}

// updateKey writes the fields of a key that can change, and returns it with its new revision.
func (t *Tx) updateKey(k keystore.Key) keystore.Key {
	k.Revision = t.logCredential(k.Digest)
	t.Exec("UPDATE keys SET scopes = ?, expires_at = ?, revoked_at = ?, replaced_by = ?, chain = ?, revision = ? WHERE id = ?",
		Scopes(k.Scopes), Stamp(k.ExpiresAt), Stamp(k.RevokedAt), Text(k.ReplacedBy), Text(k.Chain), k.Revision, k.ID)
	return k
}

// revoked returns the key as revoked now. It writes nothing.
func (t *Tx) revoked(k keystore.Key) keystore.Key {
	k.State, k.RevokedAt = credential.Revoked, t.Now
	return k
}

// Key implements keystore.Admin.
func (s *Core) Key(ctx context.Context, id string) (keystore.Key, error) {
	k, err := keyOf(ctx, s.engine.Reader(), id, "")
	return k, Wrap(ctx, s.engine, "key", err)
}

// Keys implements keystore.Admin.
func (s *Core) Keys(ctx context.Context, account string, page keystore.Page) (keys []keystore.Key, next string, err error) {
	l := s.listing("keys", account)
	after, err := l.begin(page)
	if err != nil {
		return nil, "", err
	}
	err = Read(ctx, s.engine, "keys", func(q Querier) error {
		_, seq, err := accountByID(ctx, q, account)
		if err != nil {
			return err
		}
		keys, next, err = list(ctx, q, l, page.Limit, scanKey,
			selectKeys+" WHERE k.account = ? AND k.seq > ? ORDER BY k.seq LIMIT ?", seq, after, page.Limit+1)
		return err
	})
	return keys, next, err
}

// RevokeKey implements keystore.Admin.
func (s *Core) RevokeKey(ctx context.Context, actor, id, account string) (keystore.Key, error) {
	return mutation[keystore.Key]{
		what: "revoke key", actor: actor,
		check: func(ctx context.Context, q Querier, _ time.Time) (keystore.Key, bool, error) {
			k, err := keyOf(ctx, q, id, account)
			return k, k.State == credential.Revoked, err
		},
		apply: func(t *Tx, k keystore.Key) (keystore.Key, error) { return t.revoke(k), nil },
	}.run(ctx, s)
}

// revoke revokes an active key and writes the event.
func (t *Tx) revoke(k keystore.Key) keystore.Key {
	k = t.updateKey(t.revoked(k))
	t.event(keystore.KeyRevoke, k.Account, k.ID, nil)
	return k
}

// SetKeyScope implements keystore.Admin.
func (s *Core) SetKeyScope(ctx context.Context, actor, id, scope string, granted bool) (keystore.Key, error) {
	return mutation[keystore.Key]{
		what: "set key scope", actor: actor,
		check: func(ctx context.Context, q Querier, _ time.Time) (keystore.Key, bool, error) {
			k, err := keyOf(ctx, q, id, "")
			if err != nil || k.Scopes.Has(scope) == granted {
				return k, true, err
			}
			if granted {
				if err = activeAccount(ctx, q, k.Account); err == nil && k.Scopes.Len() >= credential.MaxScopes {
					err = keystore.Conflictf("The key has %d scopes, which is the most that a key carries", k.Scopes.Len())
				}
			}
			return k, false, err
		},
		apply: func(t *Tx, k keystore.Key) (keystore.Key, error) {
			action := keystore.KeyUngrant
			if granted {
				action = keystore.KeyGrant
				k.Scopes = k.Scopes.With(credential.NewScopes(scope))
			} else {
				k.Scopes = k.Scopes.Without(scope)
			}
			k = t.updateKey(k)
			t.event(action, k.Account, k.ID, Detail{"scope": scope})
			return k, nil
		},
	}.run(ctx, s)
}
