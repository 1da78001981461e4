package sqlstore

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

const selectKeys = `SELECT k.seq, k.id, a.id, k.digest, k.label, k.hint, k.scopes, k.created_at, k.created_by,
	k.expires_at, k.revoked_at, k.last_used_at, k.revision
	FROM keys k JOIN accounts a ON a.seq = k.account`

func scanKey(row Scanner, seq *int64) (keystore.Key, error) {
	k := keystore.Key{State: credential.Active}
	err := row.Scan(seq, &k.ID, &k.Account, (*Digest)(&k.Digest), &k.Label, &k.Hint, (*Scopes)(&k.Scopes),
		(*Stamp)(&k.CreatedAt), &k.CreatedBy, (*Stamp)(&k.ExpiresAt), (*Stamp)(&k.RevokedAt), (*Stamp)(&k.LastUsedAt), &k.Revision)
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

// CreateKey implements keystore.Admin.
func (s *Core) CreateKey(ctx context.Context, actor string, n keystore.NewKey) (keystore.Key, error) {
	return Mutate(ctx, s.engine, "create key", actor, func(t *Tx) (keystore.Key, error) {
		account, err := t.livingAccount(n.Account)
		if err != nil {
			return keystore.Key{}, err
		}
		if err := errors.Join(t.unusedID("keys", n.ID), t.unusedDigest(n.Digest)); err != nil {
			return keystore.Key{}, err
		}
		if err := t.room(account, n.Limit); err != nil {
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
func (t *Tx) unusedID(table, id string) error {
	var used bool
	err := t.QueryRowContext(t.Ctx, "SELECT EXISTS (SELECT 1 FROM "+table+" WHERE id = ?)", id).Scan(&used)
	if err == nil && used {
		return idExists(id)
	}
	return err
}

func idExists(id string) error { return keystore.Conflictf("This id exists already: %s", id) }

func digestExists() error { return keystore.Conflictf("A credential with this SHA-256 exists already") }

// unusedDigest looks at keys and sessions: one digest is one credential.
func (t *Tx) unusedDigest(d credential.Digest) error {
	var used bool
	err := t.QueryRowContext(t.Ctx, `SELECT EXISTS (SELECT 1 FROM keys WHERE digest = ?1)
		OR EXISTS (SELECT 1 FROM sessions WHERE digest = ?1)`, Digest(d)).Scan(&used)
	if err == nil && used {
		return digestExists()
	}
	return err
}

// room tells whether the account may have one more key.
func (t *Tx) room(account int64, limit int) error {
	if limit == 0 {
		return nil
	}
	var keys int
	err := t.QueryRowContext(t.Ctx, `SELECT count(*) FROM keys
		WHERE account = ? AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?)`, account, Stamp(t.Now)).Scan(&keys)
	if err == nil && keys >= limit {
		return keystore.Conflictf("At most %d keys that are neither revoked nor expired", limit)
	}
	return err
}

// InsertKey adds the key to the account with that seq, and returns its revision.
func (t *Tx) InsertKey(k keystore.Key, account int64) (revision int64) {
	revision = t.changedCredential(k.Digest)
	t.Exec(`INSERT INTO keys (id, account, digest, label, hint, scopes, created_at, created_by, expires_at, revision)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		k.ID, account, Digest(k.Digest), k.Label, k.Hint, Scopes(k.Scopes), Stamp(k.CreatedAt), k.CreatedBy, Stamp(k.ExpiresAt), revision)
	return revision
}

// updateKey writes what can change of a key, and returns the new revision.
func (t *Tx) updateKey(k keystore.Key) (revision int64) {
	revision = t.changedCredential(k.Digest)
	t.Exec("UPDATE keys SET scopes = ?, expires_at = ?, revoked_at = ?, revision = ? WHERE id = ?",
		Scopes(k.Scopes), Stamp(k.ExpiresAt), Stamp(k.RevokedAt), revision, k.ID)
	return revision
}

func (t *Tx) revoked(k keystore.Key) keystore.Key {
	k.State, k.RevokedAt = credential.Revoked, t.Now
	return k
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

// RevokeKey implements keystore.Admin.
func (s *Core) RevokeKey(ctx context.Context, actor, id, account string) (keystore.Key, error) {
	return Mutate(ctx, s.engine, "revoke key", actor, func(t *Tx) (keystore.Key, error) {
		k, err := keyOf(t.Ctx, t, id, account)
		if err != nil || k.State == credential.Revoked {
			return k, err
		}
		k = t.revoked(k)
		k.Revision = t.updateKey(k)
		t.event(keystore.KeyRevoke, k.Account, k.ID, nil)
		return k, nil
	})
}

// RollKey implements keystore.Admin.
func (s *Core) RollKey(ctx context.Context, actor string, roll keystore.Roll) (successor, replaced keystore.Key, err error) {
	type pair struct{ successor, replaced keystore.Key }
	keys, err := Mutate(ctx, s.engine, "roll key", actor, func(t *Tx) (pair, error) {
		old, err := keyOf(t.Ctx, t, roll.ID, roll.Account)
		if err != nil {
			return pair{}, err
		}
		switch {
		case old.State == credential.Revoked:
			return pair{}, keystore.Conflictf("API key has been revoked: %s", old.ID)
		case !old.ExpiresAt.IsZero() && !t.Now.Before(old.ExpiresAt):
			return pair{}, keystore.Conflictf("API key has expired: %s", old.ID)
		}
		account, err := t.livingAccount(old.Account)
		if err != nil {
			return pair{}, err
		}
		if err := errors.Join(t.unusedID("keys", roll.NewID), t.unusedDigest(roll.Digest)); err != nil {
			return pair{}, err
		}
		successor := keystore.Key{
			ID: roll.NewID, Account: old.Account, Digest: roll.Digest, Label: old.Label, Hint: roll.Hint, Scopes: old.Scopes,
			State: credential.Active, CreatedAt: t.Now, CreatedBy: actor, ExpiresAt: old.ExpiresAt,
		}
		successor.Revision = t.InsertKey(successor, account)
		if roll.Grace == 0 {
			old = t.revoked(old)
		} else if end := Cut(t.Now.Add(roll.Grace)); old.ExpiresAt.IsZero() || end.Before(old.ExpiresAt) {
			old.ExpiresAt = end
		}
		old.Revision = t.updateKey(old)
		t.event(keystore.KeyRoll, old.Account, old.ID, map[string]string{
			"successor": successor.ID, "grace_seconds": strconv.FormatInt(int64(roll.Grace/time.Second), 10),
		})
		return pair{successor, old}, nil
	})
	return keys.successor, keys.replaced, err
}

// SetKeyScope implements keystore.Admin.
func (s *Core) SetKeyScope(ctx context.Context, actor, id, scope string, granted bool) (keystore.Key, error) {
	return Mutate(ctx, s.engine, "set key scope", actor, func(t *Tx) (keystore.Key, error) {
		k, err := keyByID(t.Ctx, t, id)
		if err != nil || k.Scopes.Has(scope) == granted {
			return k, err
		}
		action := keystore.KeyUngrant
		if granted {
			if _, err := t.livingAccount(k.Account); err != nil {
				return keystore.Key{}, err
			}
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
