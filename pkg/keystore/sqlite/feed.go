package sqlite

import (
	"context"
	"database/sql"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

// Changed implements keystore.Feed.
func (s *Store) Changed() <-chan struct{} { return s.changed.Wait() }

// Head implements keystore.Feed.
func (s *Store) Head(ctx context.Context) (keystore.Head, error) {
	_ = s.files.check() // who follows the log looks each second: a deleted file is in the log soon
	head, _, err := s.head(ctx, s.readers)
	return head, sqlstore.Failed(ctx, s, "head", err)
}

// HeadIn implements sqlstore.Engine.
func (s *Store) HeadIn(t *sqlstore.Tx) (keystore.Head, error) {
	head, _, err := s.head(t.Ctx, t)
	return head, err
}

// moment is when something was read, by the lease clock, and how far the wall clock is
// ahead of it.
type moment struct {
	lease time.Time
	step  time.Duration
}

// head reads the clock first: what is recorded after that moment and before the
// head is then in the snapshot, and judged by an earlier time than its own.
func (s *Store) head(ctx context.Context, q sqlstore.Querier) (keystore.Head, moment, error) {
	at := moment{sqlstore.Cut(s.clock.lease()), s.clock.stepped()}
	h := keystore.Head{Now: shown(at.lease, at.step)}
	err := q.QueryRowContext(ctx, "SELECT epoch, revision, not_before FROM head").Scan(&h.Epoch, &h.Revision, (*sqlstore.Stamp)(&h.NotBefore))
	h.NotBefore = shown(h.NotBefore, at.step)
	return h, at, err
}

// Changes implements keystore.Feed.
func (s *Store) Changes(ctx context.Context, epoch string, after int64, limit int) (head keystore.Head, changes []keystore.Change, err error) {
	err = sqlstore.Read(ctx, s, "changes", func(q sqlstore.Querier) error {
		if head, _, err = s.head(ctx, q); err != nil {
			return err
		}
		if epoch != head.Epoch || after > head.Revision {
			return keystore.ErrGone
		}
		oldest := head.Revision + 1 // for a log without rows
		if err := q.QueryRowContext(ctx, "SELECT coalesce(min(revision), ?) FROM log", oldest).Scan(&oldest); err != nil {
			return err
		}
		if after < oldest-1 {
			return keystore.ErrGone
		}
		rows, err := q.QueryContext(ctx, "SELECT revision, account, digest FROM log WHERE revision > ? ORDER BY revision LIMIT ?", after, limit)
		if err != nil {
			return err
		}
		changes, err = scanChanges(rows)
		return err
	})
	return head, changes, err
}

func scanChanges(rows *sql.Rows) ([]keystore.Change, error) {
	defer func() { _ = rows.Close() }()
	changes := []keystore.Change{}
	for rows.Next() {
		var c keystore.Change
		if err := rows.Scan(&c.Revision, (*sqlstore.Text)(&c.Account), (*sqlstore.Digest)(&c.Digest)); err != nil {
			return nil, err
		}
		changes = append(changes, c)
	}
	return changes, rows.Err()
}
