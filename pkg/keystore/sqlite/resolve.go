package sqlite

import (
	"context"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// resolveQuery takes all digests as one blob, 32 bytes each, and yields the place
// of each that is known.
const resolveQuery = `
	WITH RECURSIVE place (n) AS (VALUES (0) UNION ALL SELECT n + 1 FROM place WHERE n + 1 < length(?1) / 32),
	asked (n, digest) AS MATERIALIZED (SELECT n, substr(?1, n * 32 + 1, 32) FROM place)
	SELECT n, 1, c.id, c.revoked_at, c.expires_at, c.scopes, a.id, a.terminated_at
	FROM asked CROSS JOIN keys c USING (digest) JOIN accounts a ON a.seq = c.account
	UNION ALL
	SELECT n, 2, c.id, c.ended_at, c.expires_at, '', a.id, a.terminated_at
	FROM asked CROSS JOIN sessions c USING (digest) JOIN accounts a ON a.seq = c.account`

// Resolve implements keystore.Feed.
func (s *Store) Resolve(ctx context.Context, digests []credential.Digest) (head keystore.Head, facts []keystore.Fact, err error) {
	facts = make([]keystore.Fact, len(digests))
	err = read(ctx, s, "resolve", func(q querier) error {
		if head, err = s.head(ctx, q); err != nil || len(digests) == 0 {
			return err
		}
		return lookUp(ctx, q, digests, facts)
	})
	if err != nil {
		return keystore.Head{}, nil, err
	}
	return head, facts, nil
}

func lookUp(ctx context.Context, q querier, digests []credential.Digest, facts []keystore.Fact) error {
	asked := make([]byte, 0, len(digests)*len(credential.Digest{}))
	for _, d := range digests {
		asked = append(asked, d[:]...)
	}
	rows, err := q.QueryContext(ctx, resolveQuery, asked)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var place int
		r := credential.Record{State: credential.Active, Account: credential.Account{State: credential.Active}}
		var ended, terminated time.Time
		if err := rows.Scan(&place, &r.Kind, &r.ID, (*stamp)(&ended), (*stamp)(&r.ExpiresAt), (*scopes)(&r.Scopes),
			&r.Account.ID, (*stamp)(&terminated)); err != nil {
			return err
		}
		if !ended.IsZero() {
			r.State = credential.Revoked
		}
		if !terminated.IsZero() {
			r.Account.State = credential.Terminated
		}
		facts[place] = keystore.Fact{Found: true, Record: r}
	}
	return rows.Err()
}
