package sqlstore

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// Keys that replace one another are a chain. The column chain has the id of the first key of the chain. It is NULL for a
// key that was never rolled and is no successor.

// rolledKeys are the keys of a roll.
type rolledKeys struct{ successor, replaced keystore.Key }

// RollKey implements keystore.Admin.
func (s *Core) RollKey(ctx context.Context, actor string, roll keystore.Roll) (successor, replaced keystore.Key, err error) {
	keys, err := mutation[rolledKeys]{
		what: "roll key", actor: actor, timed: true,
		check: func(ctx context.Context, q Querier, now time.Time) (rolledKeys, bool, error) {
			old, err := checkRoll(ctx, q, roll, now)
			return rolledKeys{replaced: old}, false, err
		},
		apply: func(t *Tx, keys rolledKeys) (rolledKeys, error) { return t.roll(keys.replaced, roll) },
	}.run(ctx, s)
	return keys.successor, keys.replaced, err
}

// checkRoll returns the key to roll, or the reason to refuse the roll.
func checkRoll(ctx context.Context, q Querier, roll keystore.Roll, now time.Time) (keystore.Key, error) {
	old, err := keyOf(ctx, q, roll.ID, roll.Account)
	switch {
	case err != nil:
		return old, err
	case old.State == credential.Revoked:
		return old, keystore.Conflictf("API key has been revoked: %s", old.ID)
	case !old.ExpiresAt.IsZero() && !now.Before(old.ExpiresAt):
		return old, keystore.Conflictf("API key has expired: %s", old.ID)
	case old.ReplacedBy != "":
		return old, keystore.Conflictf("Key has been replaced by %s", old.ReplacedBy)
	}
	_, err = checkNew(ctx, q, "keys", roll.NewID, old.Account, roll.Digest)
	return old, err
}

// roll replaces the old key.
func (t *Tx) roll(old keystore.Key, roll keystore.Roll) (rolledKeys, error) {
	detail := Detail{"successor": roll.NewID, "grace_seconds": strconv.FormatInt(int64(roll.Grace/time.Second), 10)}
	if old.Chain == "" {
		old.Chain = old.ID
	}
	successor := t.InsertKey(keystore.Key{
		ID: roll.NewID, Account: old.Account, Digest: roll.Digest, Label: old.Label, Hint: roll.Hint, Scopes: old.Scopes,
		State: credential.Active, CreatedAt: t.Now, CreatedBy: t.Actor, ExpiresAt: old.ExpiresAt, Chain: old.Chain,
	})
	if err := t.endGraces(old, detail); err != nil {
		return rolledKeys{}, err
	}
	old.ReplacedBy = successor.ID
	if roll.Grace == 0 {
		old = t.revoked(old)
	} else if end := Cut(t.Now.Add(roll.Grace)); old.ExpiresAt.IsZero() || end.Before(old.ExpiresAt) {
		old.ExpiresAt = end
	}
	old = t.updateKey(old)
	t.event(keystore.KeyRoll, old.Account, old.ID, detail)
	return rolledKeys{successor, old}, nil
}

// endGraces revokes the earlier keys of the chain that are still in their grace. They get no event of their own: the detail
// of the roll's event names them. Keys whose grace is over, of which there may be many, are not read.
func (t *Tx) endGraces(old keystore.Key, detail Detail) error {
	list, err := collect(t.Ctx, t, func(row Scanner) (keystore.Key, error) {
		var seq int64
		return scanKey(row, &seq)
	}, selectKeys+` WHERE k.chain = ? AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > ?)
		AND k.id NOT IN (?, ?) ORDER BY k.seq`, old.Chain, Stamp(t.Now), old.ID, detail["successor"])
	var revoked []string
	for _, k := range list {
		t.updateKey(t.revoked(k))
		revoked = append(revoked, k.ID)
	}
	if len(revoked) > 0 {
		detail["revoked"] = strings.Join(revoked, " ")
	}
	return err
}

// unrevoked are the keys of a chain (?1) that are not revoked.
const unrevoked = " FROM keys WHERE chain = ?1 AND revoked_at IS NULL"

// RevokeChain implements keystore.Admin. A chain that is revoked already needs no transaction.
func (s *Core) RevokeChain(ctx context.Context, actor, id, account string) (keystore.RevokedChain, error) {
	const what = "revoke chain"
	var chain keystore.RevokedChain
	var inPlace bool
	err := Read(ctx, s.engine, what, func(q Querier) (err error) {
		chain, inPlace, err = chainOf(ctx, q, id, account)
		return err
	})
	if err != nil || inPlace {
		return chain, err
	}
	return Mutate(ctx, s.engine, what, actor, func(t *Tx) (keystore.RevokedChain, error) {
		chain, inPlace, err := chainOf(t.Ctx, t, id, account)
		switch {
		case err != nil || inPlace:
			return chain, err
		case chain.Key.Chain == "":
			chain.Key = t.revoke(chain.Key)
			chain.Revoked, chain.Revision = []string{id}, chain.Key.Revision
			return chain, nil
		}
		return t.revokeChain(chain, s.engine.LockRows())
	})
}

// chainOf returns the key with its chain as it is, and whether all keys of the chain are revoked.
func chainOf(ctx context.Context, q Querier, id, account string) (chain keystore.RevokedChain, inPlace bool, err error) {
	key, err := keyOf(ctx, q, id, account)
	if err != nil {
		return keystore.RevokedChain{}, false, err
	}
	chain = keystore.RevokedChain{Key: key, Revoked: []string{}, Revision: key.Revision}
	if key.Chain == "" {
		return chain, key.State == credential.Revoked, nil
	}
	err = QueryRow(ctx, q, "SELECT (SELECT max(revision) FROM keys WHERE chain = ?1), NOT EXISTS (SELECT 1"+unrevoked+")",
		key.Chain).Scan(&chain.Revision, &inPlace)
	return chain, inPlace, err
}

// revokeChain revokes the keys of a chain by a constant number of statements, because thousands of them may have expired
// without being revoked, and other writes wait meanwhile.
func (t *Tx) revokeChain(chain keystore.RevokedChain, lockRows string) (_ keystore.RevokedChain, err error) {
	name := chain.Key.Chain
	chain.Revoked, err = collect(t.Ctx, t, scanOne[string], "SELECT id"+unrevoked+" ORDER BY seq"+lockRows, name)
	if err != nil {
		return chain, err
	}
	chain.Revision = t.raise(len(chain.Revoked))
	before := chain.Revision - int64(len(chain.Revoked))
	t.Exec("UPDATE keys SET revoked_at = ?2, revision = ?3 + place FROM (SELECT seq, row_number() OVER (ORDER BY seq) AS place"+
		unrevoked+") AS listed WHERE keys.seq = listed.seq", name, Stamp(t.Now), before)
	const changed = " FROM keys WHERE chain = ?1 AND revision > ?2 ORDER BY revision"
	t.Exec("INSERT INTO log (revision, at, digest) SELECT revision, ?3, digest"+changed, name, before, Stamp(t.Now))
	t.Exec("INSERT INTO events (at, actor, action, account, key, detail) SELECT ?3, ?4, ?5, ?6, id, '{}'"+changed,
		name, before, Stamp(t.Now), t.Actor, string(keystore.KeyRevoke), chain.Key.Account)
	if t.Err == nil {
		chain.Key, t.Err = keyOf(t.Ctx, t, chain.Key.ID, "")
	}
	return chain, t.Err
}
