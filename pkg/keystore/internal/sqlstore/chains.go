package sqlstore

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// Keys that replace one another are a chain. The column chain of each of them holds the id of
// the first one; it is NULL for a key that was neither rolled nor made by a roll.

// RollKey implements keystore.Admin. What refuses the roll is looked for before the
// transaction, too: refused requests do not hold up the writes of others.
func (s *Core) RollKey(ctx context.Context, actor string, roll keystore.Roll) (successor, replaced keystore.Key, err error) {
	const what = "roll key"
	now, err := s.nowFor(ctx, true)
	if err == nil {
		_, _, err = mayRoll(ctx, s.engine.Reader(), roll, now)
	}
	if err != nil {
		return keystore.Key{}, keystore.Key{}, Failed(ctx, s.engine, what, err)
	}
	type pair struct{ successor, replaced keystore.Key }
	keys, err := Mutate(ctx, s.engine, what, actor, func(t *Tx) (pair, error) {
		old, account, err := mayRoll(t.Ctx, t, roll, t.Now)
		if err != nil {
			return pair{}, err
		}
		detail := Detail{"successor": roll.NewID, "grace_seconds": strconv.FormatInt(int64(roll.Grace/time.Second), 10)}
		if old.Chain == "" {
			old.Chain = old.ID
		}
		successor := keystore.Key{
			ID: roll.NewID, Account: old.Account, Digest: roll.Digest, Label: old.Label, Hint: roll.Hint, Scopes: old.Scopes,
			State: credential.Active, CreatedAt: t.Now, CreatedBy: actor, ExpiresAt: old.ExpiresAt, Chain: old.Chain,
		}
		successor.Revision = t.InsertKey(successor, account)
		if err := t.endGraces(old, detail); err != nil {
			return pair{}, err
		}
		old.ReplacedBy = successor.ID
		if roll.Grace == 0 {
			old = t.revoked(old)
		} else if end := Cut(t.Now.Add(roll.Grace)); old.ExpiresAt.IsZero() || end.Before(old.ExpiresAt) {
			old.ExpiresAt = end
		}
		old.Revision = t.updateKey(old)
		t.event(keystore.KeyRoll, old.Account, old.ID, detail)
		return pair{successor, old}, nil
	})
	return keys.successor, keys.replaced, err
}

// mayRoll returns the key to roll and the seq of its account, or why there can be no such roll.
func mayRoll(ctx context.Context, q Querier, roll keystore.Roll, now time.Time) (old keystore.Key, account int64, err error) {
	if old, err = keyOf(ctx, q, roll.ID, roll.Account); err != nil {
		return old, 0, err
	}
	switch {
	case old.State == credential.Revoked:
		return old, 0, keystore.Conflictf("API key has been revoked: %s", old.ID)
	case expired(old, now):
		return old, 0, keystore.Conflictf("API key has expired: %s", old.ID)
	case old.ReplacedBy != "":
		return old, 0, keystore.Conflictf("Key has been replaced by %s", old.ReplacedBy)
	}
	if account, err = livingAccount(ctx, q, old.Account); err != nil {
		return old, 0, err
	}
	return old, account, errors.Join(unusedID(ctx, q, "keys", roll.NewID), unusedDigest(ctx, q, roll.Digest))
}

// endGraces revokes the earlier keys of the chain that are in force, which are in the grace of an
// earlier roll. The event of this roll is their event, too: its detail names them.
func (t *Tx) endGraces(old keystore.Key, detail Detail) error {
	// Keys whose grace is over stay unrevoked, any number of them: the query leaves them out.
	list, err := unrevoked(t.Ctx, t, old.Chain, " AND (k.expires_at IS NULL OR k.expires_at > ?)", Stamp(t.Now))
	if err != nil {
		return err
	}
	var ended []string
	for _, k := range list {
		if k.ID != old.ID && k.ID != detail["successor"] {
			t.updateKey(t.revoked(k))
			ended = append(ended, k.ID)
		}
	}
	if len(ended) > 0 {
		detail["revoked"] = strings.Join(ended, " ")
	}
	return nil
}

// RevokeChain implements keystore.Admin. A chain that is revoked already needs no transaction.
func (s *Core) RevokeChain(ctx context.Context, actor, id, account string) (keystore.RevokedChain, error) {
	const what = "revoke chain"
	var chain keystore.RevokedChain
	var rest []keystore.Key
	err := Read(ctx, s.engine, what, func(q Querier) (err error) {
		chain, rest, err = chainOf(ctx, q, id, account)
		return err
	})
	if err != nil || len(rest) == 0 {
		return chain, err
	}
	return Mutate(ctx, s.engine, what, actor, func(t *Tx) (keystore.RevokedChain, error) {
		chain, rest, err := chainOf(t.Ctx, t, id, account)
		for _, k := range rest {
			k = t.revoke(k)
			if k.ID == id {
				chain.Key = k
			}
			chain.Revoked, chain.Revision = append(chain.Revoked, k.ID), k.Revision
		}
		return chain, err
	})
}

// chainOf returns the key with its chain as it is, and the keys of the chain that are not revoked.
func chainOf(ctx context.Context, q Querier, id, account string) (chain keystore.RevokedChain, rest []keystore.Key, err error) {
	chain.Revoked = []string{}
	if chain.Key, err = keyOf(ctx, q, id, account); err != nil {
		return keystore.RevokedChain{}, nil, err
	}
	chain.Revision = chain.Key.Revision
	if chain.Key.Chain == "" {
		if chain.Key.State != credential.Revoked {
			rest = []keystore.Key{chain.Key}
		}
		return chain, rest, nil
	}
	err = q.QueryRowContext(ctx, "SELECT max(revision) FROM keys WHERE chain = ?", chain.Key.Chain).Scan(&chain.Revision)
	if err == nil {
		rest, err = unrevoked(ctx, q, chain.Key.Chain, "")
	}
	return chain, rest, err
}

// unrevoked reads the keys of a chain that are not revoked and meet the condition, which may be
// empty, in the order of creation. All of them are of one account.
func unrevoked(ctx context.Context, q Querier, chain, condition string, args ...any) (keys []keystore.Key, err error) {
	rows, err := q.QueryContext(ctx, selectKeys+" WHERE k.chain = ? AND k.revoked_at IS NULL"+condition+" ORDER BY k.seq", append([]any{chain}, args...)...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var seq int64
		k, err := scanKey(rows, &seq)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, rows.Err()
}
