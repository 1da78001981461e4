package postgres

import (
	"context"
	"encoding/json"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

// Names are ordered as bytes, whatever the database's collation. The last argument of
// these queries is what tests add to the server's clock, in microseconds.
const (
	sidecarsQuery = withHead + `coalesce(c.name, ''), coalesce(c.poll, 0), coalesce(c.revision, 0), c.lease_ends_at, c.stale_ends_at, coalesce(c.grants, '[]')
		FROM h LEFT JOIN LATERAL (SELECT * FROM sidecars
			WHERE name COLLATE "C" > ? AND stale_ends_at > h.now + ? AND NOT gone
			ORDER BY name COLLATE "C" LIMIT ?) c ON true
		ORDER BY c.name COLLATE "C"`

	// progressQuery finds, of each sidecar that the change waits for, the moment until which it may
	// answer without it: the end of the last grant that does not cover it, and they rise. The moment
	// of the head is read by subqueries: of a join the planner expects so much that it compiles the
	// query first, which takes longer than anything else.
	progressQuery = `WITH h AS MATERIALIZED (SELECT ` + headColumns + ` FROM head), behind AS MATERIALIZED (
			SELECT name, CASE WHEN (g->-1->>0)::bigint < ?1 THEN (g->-1->>1)::bigint
				ELSE (SELECT max((one->>1)::bigint) FROM json_array_elements(g) one WHERE (one->>0)::bigint < ?1) END AS ends
			FROM (SELECT name, grants::json AS g FROM sidecars
				WHERE revision < ?1 AND stale_ends_at > (SELECT now FROM h) + ?2 AND NOT gone) AS c
		), waiting AS MATERIALIZED (SELECT name, ends FROM behind WHERE ends > (SELECT now FROM h) + ?2)
		SELECT h.*, (SELECT count(*) FROM waiting), (SELECT max(ends) FROM waiting),
			coalesce((SELECT json_agg(name) FROM (SELECT name FROM waiting ORDER BY name COLLATE "C" LIMIT ?3) AS named)::text, '[]')
		FROM h`

	leasesQuery = withHead + `(SELECT count(*) FROM sidecars WHERE NOT gone AND lease_ends_at > h.now + ?) FROM h`
)

// Sidecars implements keystore.Feed.
func (s *Store) Sidecars(ctx context.Context, page keystore.Page) (keystore.Head, []keystore.Sidecar, string, error) {
	after, err := s.SidecarsAfter(page)
	if err != nil {
		return keystore.Head{}, nil, "", err
	}
	var h head
	var c keystore.Sidecar
	var sidecars []keystore.Sidecar
	err = s.reading(ctx, "sidecars", func() error {
		sidecars = []keystore.Sidecar{}
		rest := []any{&c.Name, &c.Poll, &c.Revision, (*sqlstore.Stamp)(&c.LeaseEndsAt), (*sqlstore.Stamp)(&c.StaleEndsAt), (*sqlstore.Grants)(&c.Grants)}
		return s.rows(ctx, &h, rest, func() error {
			if c.Name != "" {
				sidecars = append(sidecars, c)
			}
			return nil
		}, sidecarsQuery, after, s.skewMicros(), page.Limit+1)
	})
	if err != nil {
		return keystore.Head{}, nil, "", err
	}
	list, next := s.SidecarsPage(page, sidecars)
	return s.told(h), list, next, nil
}

// Progress implements keystore.Feed.
func (s *Store) Progress(ctx context.Context, revision int64) (keystore.Head, keystore.Progress, error) {
	var h head
	var p keystore.Progress
	var ends time.Time
	var names string
	err := s.reading(ctx, "progress", func() error {
		return s.rows(ctx, &h, []any{&p.Waiting, (*sqlstore.Stamp)(&ends), &names}, func() error {
			return json.Unmarshal([]byte(names), &p.WaitingFor)
		}, progressQuery, revision, s.skewMicros(), keystore.MaxWaitingFor)
	})
	if err != nil {
		return keystore.Head{}, keystore.Progress{}, err
	}
	told := s.told(h)
	p.SetEffective(told, ends)
	return told, p, nil
}

// Leases implements keystore.Feed.
func (s *Store) Leases(ctx context.Context) (n int, err error) {
	var h head
	err = s.reading(ctx, "leases", func() error {
		return s.rows(ctx, &h, []any{&n}, func() error { return nil }, leasesQuery, s.skewMicros())
	})
	return n, err
}

func (s *Store) skewMicros() int64 { return time.Duration(s.skew.Load()).Microseconds() }
