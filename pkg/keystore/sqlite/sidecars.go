package sqlite

import (
	"context"
	"database/sql"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

// Sidecars implements keystore.Feed.
func (s *Store) Sidecars(ctx context.Context, page keystore.Page) (head keystore.Head, list []keystore.Sidecar, next string, err error) {
	after, err := s.SidecarsAfter(page)
	if err != nil {
		return head, nil, "", err
	}
	err = sqlstore.Read(ctx, s, "sidecars", func(q sqlstore.Querier) error {
		var at moment
		if head, at, err = s.head(ctx, q); err != nil {
			return err
		}
		rows, err := q.QueryContext(ctx, //nolint:rowserrcheck // ScanSidecars checks rows.Err
			sqlstore.SelectSidecars+" WHERE name > ? AND stale_ends_at > ? AND NOT gone ORDER BY name LIMIT ?", after, sqlstore.Stamp(at.lease), page.Limit+1)
		if err != nil {
			return err
		}
		list, err = sqlstore.ScanSidecars(rows)
		for i := range list {
			showSidecar(&list[i], at.step)
		}
		return err
	})
	list, next = s.SidecarsPage(page, list)
	return head, list, next, err
}

// waiting is the sidecars that a change waits for, with the moment until which each may answer
// without it: the end of the last grant that does not cover it, and they rise. Its arguments
// are the revision and the moment.
const waiting = ` FROM (SELECT name, CASE WHEN grants->>'$[#-1][0]' < ?1 THEN grants->>'$[#-1][1]'
		ELSE (SELECT max(value->>1) FROM json_each(grants) WHERE value->>0 < ?1) END AS ends
	FROM sidecars WHERE revision < ?1 AND stale_ends_at > ?2 AND NOT gone) WHERE ends > ?2`

// Progress implements keystore.Feed.
func (s *Store) Progress(ctx context.Context, revision int64) (head keystore.Head, p keystore.Progress, err error) {
	p.WaitingFor = []string{}
	err = sqlstore.Read(ctx, s, "progress", func(q sqlstore.Querier) error {
		var at moment
		if head, at, err = s.head(ctx, q); err != nil {
			return err
		}
		now := sqlstore.Stamp(at.lease)
		var ends time.Time
		if err := q.QueryRowContext(ctx, "SELECT count(*), max(ends)"+waiting, revision, now).Scan(&p.Waiting, (*sqlstore.Stamp)(&ends)); err != nil {
			return err
		}
		p.SetEffective(head, shown(ends, at.step))
		if p.Waiting == 0 {
			return nil
		}
		rows, err := q.QueryContext(ctx, "SELECT name"+waiting+" ORDER BY name LIMIT ?3", revision, now, keystore.MaxWaitingFor)
		if err != nil {
			return err
		}
		p.WaitingFor, err = names(rows)
		return err
	})
	return head, p, err
}

func names(rows *sql.Rows) (list []string, err error) {
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		list = append(list, name)
	}
	return list, rows.Err()
}

// Leases implements keystore.Feed.
func (s *Store) Leases(ctx context.Context) (n int, err error) {
	err = s.readers.QueryRowContext(ctx, "SELECT count(*) FROM sidecars WHERE NOT gone AND lease_ends_at > ?",
		sqlstore.Stamp(sqlstore.Cut(s.clock.lease()))).Scan(&n)
	return n, sqlstore.Failed(ctx, s, "leases", err)
}
