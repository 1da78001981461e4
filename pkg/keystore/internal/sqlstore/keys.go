package sqlstore

import (
	"context"
	"errors"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

const selectKeys = `SELECT k.seq, k.id, a.id, k.digest, k.label, k.hint, k.scopes, k.created_at, k.created_by,
	k.expires_at, k.revoked_at, k.last_used_at, k.replaced_by, k.chain, k.revision
	FROM keys k JOIN accounts a ON a.seq = k.account`

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

func keyByID(ctx context.Context, q Querier, id string) (keystore.Key, error) {
	var seq int64
	k, err := scanKey(q.QueryRowContext(ctx, selectKeys+" WHERE k.id = ?", id), &seq)
	return k, Found(err)
}

// keyOf is keyByID for the one account, or for any if that is "".
func keyOf(ctx context.Context, q Querier, id, account string) (keystore.Key, error) {
	k, err := keyByID(ctx, q, id)
	if err == nil && account != "" && k.Account != account {
		return keystore.Key{}, keystore.ErrNotFound
	}
	return k, err
}

// CreateKey implements keystore.Admin. What refuses the key is looked for before the
// transaction, too: refused requests do not hold up the writes of others.
func (s *Core) CreateKey(ctx context.Context, actor string, n keystore.NewKey) (keystore.Key, error) {
	const what = "create key"
	now, err := s.nowFor(ctx, n.Limit > 0)
	if err == nil {
		_, err = mayCreate(ctx, s.engine.Reader(), n, now)
	}
	if err != nil {
		return keystore.Key{}, Failed(ctx, s.engine, what, err)
	}
	return Mutate(ctx, s.engine, what, actor, func(t *Tx) (keystore.Key, error) {
		account, err := mayCreate(t.Ctx, t, n, t.Now)
		if err != nil {
			return keystore.Key{}, err
		}
		k := t.created(n)
		k.Revision = t.InsertKey(k, account)
		action := keystore.KeyMint
		if n.Imported {
			action = keystore.KeyImport
		}
		t.event(action, k.Account, k.ID, createdDetail(k))
		return k, nil
	})
}

// nowFor returns the store's time outside of a transaction, the zero time if it is not needed.
func (s *Core) nowFor(ctx context.Context, needed bool) (time.Time, error) {
	if !needed {
		return time.Time{}, nil
	}
	head, err := s.engine.Head(ctx)
	return head.Now, err
}

// mayCreate returns the seq of the account that the key is for, or why there can be no such
// key. The moment is needed for a key with a Limit only.
func mayCreate(ctx context.Context, q Querier, n keystore.NewKey, now time.Time) (account int64, err error) {
	account, err = livingAccount(ctx, q, n.Account)
	if err != nil {
		return 0, err
	}
	if err := errors.Join(unusedID(ctx, q, "keys", n.ID), unusedDigest(ctx, q, n.Digest)); err != nil {
		return 0, err
	}
	return account, room(ctx, q, account, n.Limit, now)
}

// created is the new key, but for its revision.
func (t *Tx) created(n keystore.NewKey) keystore.Key {
	return keystore.Key{
		ID: n.ID, Account: n.Account, Digest: n.Digest, Label: n.Label, Hint: n.Hint, Scopes: n.Scopes,
		State: credential.Active, CreatedAt: t.Now, CreatedBy: t.Actor, ExpiresAt: Cut(n.ExpiresAt),
	}
}

// createdDetail is the detail of the event of a new key.
func createdDetail(k keystore.Key) Detail {
	fields := Detail{"label": k.Label, "scopes": k.Scopes.String()}
	if !k.ExpiresAt.IsZero() {
		fields["expires_at"] = k.ExpiresAt.Format(time.RFC3339Nano)
	}
	return fields
}

// unusedID: table is "keys" or "sessions".
func unusedID(ctx context.Context, q Querier, table, id string) error {
	var used bool
	err := q.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM "+table+" WHERE id = ?)", id).Scan(&used)
	if err == nil && used {
		return idExists(id)
	}
	return err
}

func idExists(id string) error { return keystore.Conflictf("This id exists already: %s", id) }

func digestExists() error { return keystore.Conflictf("A credential with this SHA-256 exists already") }

// unusedDigest looks at keys and sessions: one digest is one credential.
func unusedDigest(ctx context.Context, q Querier, d credential.Digest) error {
	var used bool
	err := q.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM keys WHERE digest = ?1)
		OR EXISTS (SELECT 1 FROM sessions WHERE digest = ?1)`, Digest(d)).Scan(&used)
	if err == nil && used {
		return digestExists()
	}
	return err
}

// CountInForce counts the keys of an account (?1) that are in force at a moment (?2), up to a
// limit (?3) or twice that. Its two parts are ranges of the index keys_in_force, so that keys
// which are revoked or expired, however many, cost nothing.
const CountInForce = `SELECT
	(SELECT count(*) FROM (SELECT 1 FROM keys WHERE account = ?1 AND revoked_at IS NULL AND expires_at IS NULL LIMIT ?3) AS lasting) +
	(SELECT count(*) FROM (SELECT 1 FROM keys WHERE account = ?1 AND revoked_at IS NULL AND expires_at > ?2 LIMIT ?3) AS ending)`

// room returns a Conflict if the account has reached the limit of keys in force.
func room(ctx context.Context, q Querier, account int64, limit int, now time.Time) error {
	if limit == 0 {
		return nil
	}
	var keys int
	err := q.QueryRowContext(ctx, CountInForce, account, Stamp(now), limit).Scan(&keys)
	if err == nil && keys >= limit {
		return keystore.Conflictf("At most %d keys that are neither revoked nor expired", limit)
	}
	return err
}

// InsertKey adds the key to the account with that seq, and returns its revision.
func (t *Tx) InsertKey(k keystore.Key, account int64) (revision int64) {
	revision = t.changedCredential(k.Digest)
	t.Exec(`INSERT INTO keys (id, account, digest, label, hint, scopes, created_at, created_by, expires_at, chain, revision)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		k.ID, account, Digest(k.Digest), k.Label, k.Hint, Scopes(k.Scopes), Stamp(k.CreatedAt), k.CreatedBy, Stamp(k.ExpiresAt), Text(k.Chain), revision)
	return revision
}

// updateKey writes what can change of a key, and returns the new revision.
func (t *Tx) updateKey(k keystore.Key) (revision int64) {
	revision = t.changedCredential(k.Digest)
	t.Exec("UPDATE keys SET scopes = ?, expires_at = ?, revoked_at = ?, replaced_by = ?, chain = ?, revision = ? WHERE id = ?",
		Scopes(k.Scopes), Stamp(k.ExpiresAt), Stamp(k.RevokedAt), Text(k.ReplacedBy), Text(k.Chain), revision, k.ID)
	return revision
}

func (t *Tx) revoked(k keystore.Key) keystore.Key {
	k.State, k.RevokedAt = credential.Revoked, t.Now
	return k
}

// expired reports whether the key's time is over at that moment.
func expired(k keystore.Key, now time.Time) bool {
	return !k.ExpiresAt.IsZero() && !now.Before(k.ExpiresAt)
}

// Key implements keystore.Admin.
func (s *Core) Key(ctx context.Context, id string) (keystore.Key, error) {
	k, err := keyByID(ctx, s.engine.Reader(), id)
	return k, Failed(ctx, s.engine, "key", err)
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

// RevokeKey implements keystore.Admin. A key that is revoked already needs no transaction.
func (s *Core) RevokeKey(ctx context.Context, actor, id, account string) (keystore.Key, error) {
	const what = "revoke key"
	k, err := keyOf(ctx, s.engine.Reader(), id, account)
	if err != nil || k.State == credential.Revoked {
		return k, Failed(ctx, s.engine, what, err)
	}
	return Mutate(ctx, s.engine, what, actor, func(t *Tx) (keystore.Key, error) {
		k, err := keyOf(t.Ctx, t, id, account)
		if err != nil || k.State == credential.Revoked {
			return k, err
		}
		return t.revoke(k), nil
	})
}

// revoke revokes a key that is not, with its event.
func (t *Tx) revoke(k keystore.Key) keystore.Key {
	k = t.revoked(k)
	k.Revision = t.updateKey(k)
	t.event(keystore.KeyRevoke, k.Account, k.ID, nil)
	return k
}

// SetKeyScope implements keystore.Admin. What is so already, or refused, needs no transaction.
func (s *Core) SetKeyScope(ctx context.Context, actor, id, scope string, granted bool) (keystore.Key, error) {
	const what = "set key scope"
	k, change, err := maySetScope(ctx, s.engine.Reader(), id, scope, granted)
	if err != nil || !change {
		return k, Failed(ctx, s.engine, what, err)
	}
	return Mutate(ctx, s.engine, what, actor, func(t *Tx) (keystore.Key, error) {
		k, change, err := maySetScope(t.Ctx, t, id, scope, granted)
		if err != nil || !change {
			return k, err
		}
		action := keystore.KeyUngrant
		if granted {
			action = keystore.KeyGrant
			k.Scopes = k.Scopes.With(credential.NewScopes(scope))
		} else {
			k.Scopes = k.Scopes.Without(scope)
		}
		k.Revision = t.updateKey(k)
		t.event(action, k.Account, k.ID, map[string]string{"scope": scope})
		return k, nil
	})
}

// maySetScope returns the key and whether there is something to change, or why it cannot be changed.
func maySetScope(ctx context.Context, q Querier, id, scope string, granted bool) (k keystore.Key, change bool, err error) {
	k, err = keyByID(ctx, q, id)
	if err != nil || k.Scopes.Has(scope) == granted {
		return k, false, err
	}
	if granted {
		if _, err := livingAccount(ctx, q, k.Account); err != nil {
			return keystore.Key{}, false, err
		}
		if k.Scopes.Len() >= credential.MaxScopes {
			return keystore.Key{}, false, keystore.Conflictf("The key has %d scopes, which is the most that a key carries", k.Scopes.Len())
		}
	}
	return k, true, nil
}
