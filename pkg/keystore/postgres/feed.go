package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

var (
	errStandby = errors.New("the server is a standby")
	// errTimeline: the server is another than when a mutation was last made.
	errTimeline = errors.New("the server's timeline is a new one")
)

// headColumns are read by head. The statement's clock is older than what it sees: what
// was recorded since is judged by an earlier time than its own.
const headColumns = `epoch, revision, not_before, timeline,
	(extract(epoch FROM statement_timestamp()) * 1000000)::bigint AS now,
	CASE WHEN pg_is_in_recovery() THEN 0
		ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::bigint END AS current`

// withHead begins a query that reads the head and something else in one snapshot.
const withHead = "WITH h AS MATERIALIZED (SELECT " + headColumns + " FROM head) SELECT h.*, "

// head is the head's row and the server's timeline of that moment.
type head struct {
	keystore.Head
	stored, current int64
}

func (h *head) columns(more ...any) []any {
	return append([]any{
		&h.Epoch, &h.Revision, (*sqlstore.Stamp)(&h.NotBefore), &h.stored, (*sqlstore.Stamp)(&h.Now), &h.current,
	}, more...)
}

func (h *head) now() time.Time { return h.Now }

func (h *head) check() error {
	switch h.current {
	case 0:
		return errStandby
	case h.stored:
		return nil
	}
	return errTimeline
}

// told is the head as it is told outside.
func (s *Store) told(h head) keystore.Head {
	h.Epoch = fmt.Sprintf("%s.%d", h.Epoch, h.current)
	h.Now = s.shifted(h.Now)
	return h.Head
}

// reading runs a read that begins with the head's columns, and once more if the server is
// another than before: that is put on record first.
func (s *Store) reading(ctx context.Context, what string, read func() error) error {
	err := read()
	if errors.Is(err, errTimeline) {
		if err = s.Mutate(ctx, sqlstore.LanePolls, "", func(*sqlstore.Tx) error { return nil }); err == nil {
			err = read()
		}
	}
	return sqlstore.Failed(ctx, s, what, err)
}

// rows runs a query whose rows begin with the head's columns; each is called after
// every row with the other columns scanned into rest.
func (s *Store) rows(ctx context.Context, h *head, rest []any, each func() error, query string, args ...any) error {
	rows, err := s.Reader().QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	columns := h.columns(rest...)
	for rows.Next() {
		if err := rows.Scan(columns...); err != nil {
			return err
		}
		if err := h.check(); err != nil {
			return err
		}
		if err := each(); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Changed implements keystore.Feed.
func (s *Store) Changed() <-chan struct{} { return s.changed.Wait() }

// HeadIn implements sqlstore.Engine.
func (s *Store) HeadIn(t *sqlstore.Tx) (keystore.Head, error) {
	var h head
	err := t.QueryRowContext(t.Ctx, "SELECT "+headColumns+" FROM head").Scan(h.columns()...)
	return s.told(h), err
}

// Head implements keystore.Feed.
func (s *Store) Head(ctx context.Context) (keystore.Head, error) {
	var h head
	err := s.reading(ctx, "head", func() error {
		return s.rows(ctx, &h, nil, func() error { return nil }, "SELECT "+headColumns+" FROM head")
	})
	if err != nil {
		return keystore.Head{}, err
	}
	return s.told(h), nil
}

// changesQuery has both ends of the range, for the log has no gaps: of a range with one end, in a
// table that has grown since it was analyzed, the planner expects so much that it compiles the
// query first.
const changesQuery = withHead + `coalesce((SELECT min(revision) FROM log), h.revision + 1), coalesce(l.revision, 0), l.account, l.digest
	FROM h LEFT JOIN log l ON l.revision BETWEEN ? AND ?
	ORDER BY l.revision`

// Changes implements keystore.Feed.
func (s *Store) Changes(ctx context.Context, epoch string, after int64, limit int) (keystore.Head, []keystore.Change, error) {
	var h head
	var oldest int64
	var c keystore.Change
	var changes []keystore.Change
	err := s.reading(ctx, "changes", func() error {
		changes = []keystore.Change{}
		return s.rows(ctx, &h, []any{&oldest, &c.Revision, (*sqlstore.Text)(&c.Account), (*sqlstore.Digest)(&c.Digest)}, func() error {
			if c.Revision > 0 {
				changes = append(changes, c)
			}
			return nil
		}, changesQuery, after+1, after+int64(limit))
	})
	if err != nil {
		return keystore.Head{}, nil, err
	}
	head := s.told(h)
	if epoch != head.Epoch || after > head.Revision || after < oldest-1 {
		return head, nil, keystore.ErrGone
	}
	return head, changes, nil
}
