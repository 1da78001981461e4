package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// ErrClosed is the error of calls that come after the store was closed.
var ErrClosed = errors.New("the store is closed")

// SelectSidecars reads what ScanSidecars takes.
const SelectSidecars = "SELECT name, revision, lease_ends_at, stale_ends_at, grants FROM sidecars"

// ScanSidecars reads the rows of SelectSidecars, and closes them.
func ScanSidecars(rows *sql.Rows) ([]keystore.Sidecar, error) {
	defer func() { _ = rows.Close() }()
	sidecars := []keystore.Sidecar{}
	for rows.Next() {
		var c keystore.Sidecar
		err := rows.Scan(&c.Name, &c.Revision, (*Stamp)(&c.LeaseEndsAt), (*Stamp)(&c.StaleEndsAt), (*Grants)(&c.Grants))
		if err != nil {
			return nil, err
		}
		sidecars = append(sidecars, c)
	}
	return sidecars, rows.Err()
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
		if err != nil {
			return err
		}
		batch = s.waiting(batch)
		known, err := t.sidecarsOf(batch)
		if err != nil {
			return err
		}
		changed := map[string]*keystore.Sidecar{}
		for _, p := range batch {
			r := t.recordPoll(p, head, known)
			if outcomes = append(outcomes, r); r.lease > 0 {
				changed[p.Sidecar] = known[p.Sidecar]
			}
		}
		t.keep(slices.Collect(maps.Values(changed)))
		return t.Err
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
func (t *Tx) recordPoll(p *poll, head keystore.Head, known map[string]*keystore.Sidecar) recorded {
	r := recorded{head: head, err: keystore.ErrGone}
	select {
	case <-p.ctx.Done():
		return r // nobody waits for it any more
	default:
	}
	if !p.Anew && (p.Epoch != head.Epoch || p.Revision > head.Revision) {
		return r
	}
	c, ok := known[p.Sidecar]
	if !ok {
		c = &keystore.Sidecar{Name: p.Sidecar}
	}
	before := c.Revision
	lease, given := c.Record(p.Poll, head.Revision, t.Now)
	if !given {
		return r
	}
	known[p.Sidecar] = c
	t.Moved = t.Moved || !ok || c.Revision != before
	return recorded{head: head, lease: lease}
}

// perStatement bounds how many sidecars one statement speaks of.
const perStatement = 200

// sidecarsOf reads those on record.
func (t *Tx) sidecarsOf(polls []*poll) (map[string]*keystore.Sidecar, error) {
	known := make(map[string]*keystore.Sidecar, len(polls))
	for part := range slices.Chunk(polls, perStatement) {
		var names []any
		for _, p := range part {
			names = append(names, p.Sidecar)
		}
		rows, err := t.QueryContext(t.Ctx, SelectSidecars+" WHERE name IN (?"+strings.Repeat(", ?", len(part)-1)+")", names...)
		if err != nil {
			return nil, err
		}
		list, err := ScanSidecars(rows)
		if err != nil {
			return nil, err
		}
		for _, c := range list {
			known[c.Name] = &c
		}
	}
	return known, nil
}

// keep writes sidecars, each there once.
func (t *Tx) keep(sidecars []*keystore.Sidecar) {
	for part := range slices.Chunk(sidecars, perStatement) {
		var values []any
		for _, c := range part {
			values = append(values, c.Name, c.Revision, Stamp(c.LeaseEndsAt), Stamp(c.StaleEndsAt), Grants(c.Grants))
		}
		t.Exec(`INSERT INTO sidecars (name, revision, lease_ends_at, stale_ends_at, grants)
			VALUES (?, ?, ?, ?, ?)`+strings.Repeat(", (?, ?, ?, ?, ?)", len(part)-1)+`
			ON CONFLICT (name) DO UPDATE SET revision = excluded.revision, lease_ends_at = excluded.lease_ends_at,
			stale_ends_at = excluded.stale_ends_at, grants = excluded.grants`, values...)
	}
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
