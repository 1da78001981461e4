package postgres

import (
	"context"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

// resolveQuery yields the head with the facts of each digest that is known, or the
// head alone with kind 0.
const resolveQuery = withHead + `coalesce(known.kind, 0), known.digest, coalesce(known.id, ''), known.ended_at, known.expires_at,
		coalesce(known.scopes, ''), coalesce(known.account, ''), known.terminated_at
	FROM h LEFT JOIN (
		SELECT 1 AS kind, c.digest, c.id, c.revoked_at AS ended_at, c.expires_at, c.scopes, a.id AS account, a.terminated_at
		FROM keys c JOIN accounts a ON a.seq = c.account WHERE c.digest = ANY (?1::bytea[])
		UNION ALL
		SELECT 2, c.digest, c.id, c.ended_at, c.expires_at, '', a.id, a.terminated_at
		FROM sessions c JOIN accounts a ON a.seq = c.account WHERE c.digest = ANY (?1::bytea[])
	) known ON true`

// kinds are what resolveQuery calls the tables.
var kinds = map[int]credential.Kind{1: credential.Key, 2: credential.Session}

// Resolve implements keystore.Feed.
func (s *Store) Resolve(ctx context.Context, digests []credential.Digest) (keystore.Head, []keystore.Fact, error) {
	places := make(map[credential.Digest][]int, len(digests))
	asked := make([][]byte, len(digests))
	for i := range digests {
		places[digests[i]] = append(places[digests[i]], i)
		asked[i] = digests[i][:]
	}
	var facts []keystore.Fact
	var h head
	var kind int
	var digest credential.Digest
	var ended, terminated time.Time
	var r credential.Record
	err := s.reading(ctx, "resolve", func() error {
		facts = make([]keystore.Fact, len(digests))
		rest := []any{
			&kind, (*sqlstore.Digest)(&digest), &r.ID, (*sqlstore.Stamp)(&ended), (*sqlstore.Stamp)(&r.ExpiresAt),
			(*sqlstore.Scopes)(&r.Scopes), &r.Account.ID, (*sqlstore.Stamp)(&terminated),
		}
		return s.rows(ctx, &h, rest, func() error {
			r.Kind, r.State, r.Account.State = kinds[kind], credential.Active, credential.Active
			if !ended.IsZero() {
				r.State = credential.Revoked
			}
			if !terminated.IsZero() {
				r.Account.State = credential.Terminated
			}
			if kind != 0 {
				for _, place := range places[digest] {
					facts[place] = keystore.Fact{Found: true, Record: r}
				}
			}
			return nil
		}, resolveQuery, asked)
	})
	if err != nil {
		return keystore.Head{}, nil, err
	}
	return s.told(h), facts, nil
}
