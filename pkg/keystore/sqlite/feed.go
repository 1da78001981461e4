package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// Changed implements keystore.Feed.
func (s *Store) Changed() <-chan struct{} { return s.changed.wait() }

// Head implements keystore.Feed.
func (s *Store) Head(ctx context.Context) (keystore.Head, error) {
	head, err := s.head(ctx, s.readers)
	return head, failed(ctx, "head", err)
}

// head reads the clock first: what is recorded after that moment and before the
// head is then in the snapshot, and judged by an earlier time than its own.
func (s *Store) head(ctx context.Context, q querier) (keystore.Head, error) {
	h := keystore.Head{Now: cut(s.now())}
	err := q.QueryRowContext(ctx, "SELECT epoch, revision, not_before FROM head").Scan(&h.Epoch, &h.Revision, (*stamp)(&h.NotBefore))
	return h, err
}

// Changes implements keystore.Feed.
func (s *Store) Changes(ctx context.Context, epoch string, after int64, limit int) (head keystore.Head, changes []keystore.Change, err error) {
	err = read(ctx, s, "changes", func(q querier) error {
		if head, err = s.head(ctx, q); err != nil {
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
		if err := rows.Scan(&c.Revision, (*text)(&c.Account), (*digest)(&c.Digest)); err != nil {
			return nil, err
		}
		changes = append(changes, c)
	}
	return changes, rows.Err()
}

const selectSidecars = "SELECT name, revision, lease_ends_at, stale_ends_at, grants FROM sidecars"

func scanSidecar(row scanner) (c keystore.Sidecar, err error) {
	err = row.Scan(&c.Name, &c.Revision, (*stamp)(&c.LeaseEndsAt), (*stamp)(&c.StaleEndsAt), (*grants)(&c.Grants))
	return c, err
}

// Sidecars implements keystore.Feed.
func (s *Store) Sidecars(ctx context.Context) (head keystore.Head, sidecars []keystore.Sidecar, err error) {
	err = read(ctx, s, "sidecars", func(q querier) error {
		if head, err = s.head(ctx, q); err != nil {
			return err
		}
		rows, err := q.QueryContext(ctx, selectSidecars+" WHERE stale_ends_at > ? ORDER BY name", stamp(head.Now))
		if err != nil {
			return err
		}
		sidecars, err = scanSidecars(rows)
		return err
	})
	return head, sidecars, err
}

func scanSidecars(rows *sql.Rows) ([]keystore.Sidecar, error) {
	defer func() { _ = rows.Close() }()
	sidecars := []keystore.Sidecar{}
	for rows.Next() {
		c, err := scanSidecar(rows)
		if err != nil {
			return nil, err
		}
		sidecars = append(sidecars, c)
	}
	return sidecars, rows.Err()
}

// poll is one RecordPoll that waits for the writer.
type poll struct {
	keystore.Poll
	recorded
	done chan error
}

// recorded is what RecordPoll returns.
type recorded struct {
	head  keystore.Head
	lease time.Duration
	gone  bool
}

// RecordPoll implements keystore.Feed.
func (s *Store) RecordPoll(ctx context.Context, p keystore.Poll) (keystore.Head, time.Duration, error) {
	const what = "record poll"
	waiting := &poll{Poll: p, done: make(chan error, 1)}
	select {
	case s.polls <- waiting:
	case <-ctx.Done():
		return keystore.Head{}, 0, failed(ctx, what, ctx.Err())
	case <-s.stop:
		return keystore.Head{}, 0, failed(ctx, what, errClosed)
	}
	select {
	case err := <-waiting.done:
		if err == nil && waiting.gone {
			err = keystore.ErrGone
		}
		return waiting.head, waiting.lease, failed(ctx, what, err)
	case <-ctx.Done():
		return keystore.Head{}, 0, failed(ctx, what, ctx.Err())
	}
}

// waitingPolls takes all that wait to be recorded at this moment.
func (s *Store) waitingPolls() (polls []*poll) {
	for {
		select {
		case p := <-s.polls:
			polls = append(polls, p)
		default:
			return polls
		}
	}
}

// recordPolls records all of them with one sync of the disk.
func (s *Store) recordPolls(polls []*poll) {
	err := s.transact(context.Background(), "", func(t *tx) error {
		head, err := s.head(t.ctx, t)
		for _, p := range polls {
			if err != nil {
				return err
			}
			p.recorded, err = t.recordPoll(p.Poll, head)
		}
		return err
	})
	for _, p := range polls {
		p.done <- err
	}
}

// recordPoll tells whether an acknowledgement moved: a mere renewal of leases, which is
// what nearly all polls are, must not wake everybody.
func (t *tx) recordPoll(p keystore.Poll, head keystore.Head) (recorded, error) {
	r := recorded{head: head, gone: !p.Anew && (p.Epoch != head.Epoch || p.Revision > head.Revision)}
	if r.gone {
		return r, nil
	}
	c, err := scanSidecar(t.QueryRowContext(t.ctx, selectSidecars+" WHERE name = ?", p.Sidecar))
	known := err == nil
	if !known && !errors.Is(err, sql.ErrNoRows) {
		return r, err
	}
	before := c.Revision
	lease, ok := c.Record(p, head.Revision, t.now)
	if !ok {
		r.gone = true
		return r, nil
	}
	r.lease = lease
	t.moved = t.moved || !known || c.Revision != before
	t.exec(`INSERT INTO sidecars VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET revision = excluded.revision,
		lease_ends_at = excluded.lease_ends_at, stale_ends_at = excluded.stale_ends_at, grants = excluded.grants`,
		p.Sidecar, c.Revision, stamp(c.LeaseEndsAt), stamp(c.StaleEndsAt), grants(c.Grants))
	return r, t.err
}

// Forget implements keystore.Feed.
func (s *Store) Forget(ctx context.Context, sidecar string) error {
	_, err := mutate(ctx, s, "forget sidecar", "", func(t *tx) (struct{}, error) {
		t.exec("DELETE FROM sidecars WHERE name = ?", sidecar)
		t.moved = true
		return struct{}{}, nil
	})
	return err
}
