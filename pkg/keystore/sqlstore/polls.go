package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// ErrClosed is the error of calls that come after the store was closed.
var ErrClosed = errors.New("the store is closed")

// SelectSidecars reads what ScanSidecar takes.
const SelectSidecars = "SELECT name, revision, lease_ends_at, stale_ends_at, grants FROM sidecars"

// ScanSidecar reads a row of SelectSidecars.
func ScanSidecar(row Scanner) (c keystore.Sidecar, err error) {
	err = row.Scan(&c.Name, &c.Revision, (*Stamp)(&c.LeaseEndsAt), (*Stamp)(&c.StaleEndsAt), (*Grants)(&c.Grants))
	return c, err
}

// poll is one RecordPoll that waits to be recorded.
type poll struct {
	keystore.Poll
	ctx  context.Context //nolint:containedctx // of a call that waits in a queue
	done chan recorded
}

// recorded is what RecordPoll returns.
type recorded struct {
	head  keystore.Head
	lease time.Duration
	err   error
}

// RecordPoll implements keystore.Feed.
func (s *Core) RecordPoll(ctx context.Context, p keystore.Poll) (keystore.Head, time.Duration, error) {
	const what = "record poll"
	waiting := &poll{Poll: p, ctx: ctx, done: make(chan recorded, 1)}
	select {
	case s.polls <- waiting:
	case <-ctx.Done():
		return keystore.Head{}, 0, Failed(ctx, s.engine, what, ctx.Err())
	case <-s.stop:
		return keystore.Head{}, 0, Failed(ctx, s.engine, what, ErrClosed)
	}
	select {
	case r := <-waiting.done:
		return r.head, r.lease, Failed(ctx, s.engine, what, r.err)
	case <-ctx.Done():
		return keystore.Head{}, 0, Failed(ctx, s.engine, what, ctx.Err())
	}
}

// recordPolls records polls until the stop. Those that come while a transaction is
// under way share the next one, because each costs a sync of the disk.
func (s *Core) recordPolls() {
	for {
		select {
		case p := <-s.polls:
			s.recordBatch([]*poll{p})
		case <-s.stop:
			return
		}
	}
}

func (s *Core) recordBatch(batch []*poll) {
	var outcomes []recorded
	err := s.engine.Mutate(context.Background(), "", func(t *Tx) error {
		head, err := s.engine.HeadIn(t)
		batch = s.waiting(batch)
		for _, p := range batch {
			if err != nil {
				return err
			}
			var r recorded
			r, err = t.recordPoll(p, head)
			outcomes = append(outcomes, r)
		}
		return err
	})
	for i, p := range batch {
		if err != nil {
			p.done <- recorded{err: err}
		} else {
			p.done <- outcomes[i]
		}
	}
}

// waiting adds all that wait at this moment.
func (s *Core) waiting(batch []*poll) []*poll {
	for {
		select {
		case p := <-s.polls:
			batch = append(batch, p)
		default:
			return batch
		}
	}
}

// recordPoll tells whether an acknowledgement moved: a mere renewal of leases, which is
// what nearly all polls are, must not wake everybody.
func (t *Tx) recordPoll(p *poll, head keystore.Head) (recorded, error) {
	r := recorded{head: head}
	select {
	case <-p.ctx.Done():
		return r, nil // nobody waits for it any more
	default:
	}
	if !p.Anew && (p.Epoch != head.Epoch || p.Revision > head.Revision) {
		r.err = keystore.ErrGone
		return r, nil
	}
	c, err := ScanSidecar(t.QueryRowContext(t.Ctx, SelectSidecars+" WHERE name = ?", p.Sidecar))
	known := err == nil
	if !known && !errors.Is(err, sql.ErrNoRows) {
		return r, err
	}
	before := c.Revision
	lease, ok := c.Record(p.Poll, head.Revision, t.Now)
	if !ok {
		r.err = keystore.ErrGone
		return r, nil
	}
	r.lease = lease
	t.Moved = t.Moved || !known || c.Revision != before
	t.Exec(`INSERT INTO sidecars (name, revision, lease_ends_at, stale_ends_at, grants) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (name) DO UPDATE SET revision = excluded.revision, lease_ends_at = excluded.lease_ends_at,
		stale_ends_at = excluded.stale_ends_at, grants = excluded.grants`,
		p.Sidecar, c.Revision, Stamp(c.LeaseEndsAt), Stamp(c.StaleEndsAt), Grants(c.Grants))
	return r, t.Err
}

// Forget implements keystore.Feed.
func (s *Core) Forget(ctx context.Context, sidecar string) error {
	_, err := Mutate(ctx, s.engine, "forget sidecar", "", func(t *Tx) (struct{}, error) {
		t.Exec("DELETE FROM sidecars WHERE name = ?", sidecar)
		t.Moved = true
		return struct{}{}, nil
	})
	return err
}
