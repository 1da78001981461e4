package sqlite

import (
	"context"
	"encoding/json"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

// resolveQuery takes the digests as a JSON array of hexadecimal strings. It yields
// the head with the place and the facts of each digest that is known, or the head
// alone with place -1: one statement is one snapshot, and costs a third of a
// transaction around two.
const resolveQuery = `
	WITH known (place, kind, id, ended_at, expires_at, scopes, account, terminated_at) AS (
		SELECT asked.key, 1, c.id, c.revoked_at, c.expires_at, c.scopes, a.id, a.terminated_at
		FROM json_each(?1) asked CROSS JOIN keys c ON c.digest = unhex(asked.value) JOIN accounts a ON a.seq = c.account
		UNION ALL
		SELECT asked.key, 2, c.id, c.ended_at, c.expires_at, '', a.id, a.terminated_at
		FROM json_each(?1) asked CROSS JOIN sessions c ON c.digest = unhex(asked.value) JOIN accounts a ON a.seq = c.account
	)
	SELECT epoch, revision, not_before, coalesce(place, -1), coalesce(kind, 0),
		coalesce(id, ''), ended_at, expires_at, coalesce(scopes, ''), coalesce(account, ''), terminated_at
	FROM head LEFT JOIN known`

// kinds are what resolveQuery calls the tables.
var kinds = map[int]credential.Kind{1: credential.Key, 2: credential.Session}

// Resolve implements keystore.Feed.
func (s *Store) Resolve(ctx context.Context, digests []credential.Digest) (keystore.Head, []keystore.Fact, error) {
	head, facts, err := s.lookUp(ctx, digests)
	if err != nil {
		return keystore.Head{}, nil, sqlstore.Failed(ctx, s, "resolve", err)
	}
	return head, facts, nil
}

func (s *Store) lookUp(ctx context.Context, digests []credential.Digest) (head keystore.Head, facts []keystore.Fact, err error) {
	asked := make([]string, len(digests))
	for i, d := range digests {
		asked[i] = d.Hex()
	}
	list, err := json.Marshal(asked)
	if err != nil {
		return head, nil, err
	}
	step := s.clock.stepped()
	head.Now = shown(sqlstore.Cut(s.clock.lease()), step)
	rows, err := s.resolve.QueryContext(ctx, string(list))
	if err != nil {
		return head, nil, err
	}
	defer func() { _ = rows.Close() }()
	facts = make([]keystore.Fact, len(digests))
	for rows.Next() {
		var place, kind int
		var ended, terminated time.Time
		r := credential.Record{State: credential.Active, Account: credential.Account{State: credential.Active}}
		if err := rows.Scan(&head.Epoch, &head.Revision, (*sqlstore.Stamp)(&head.NotBefore), &place, &kind, &r.ID, (*sqlstore.Stamp)(&ended),
			(*sqlstore.Stamp)(&r.ExpiresAt), (*sqlstore.Scopes)(&r.Scopes), &r.Account.ID, (*sqlstore.Stamp)(&terminated)); err != nil {
			return head, nil, err
		}
		if place < 0 {
			continue
		}
		if !ended.IsZero() {
			r.State = credential.Revoked
		}
		if !terminated.IsZero() {
			r.Account.State = credential.Terminated
		}
		r.Kind = kinds[kind]
		facts[place] = keystore.Fact{Found: true, Record: r}
	}
	head.NotBefore = shown(head.NotBefore, step)
	return head, facts, rows.Err()
}
