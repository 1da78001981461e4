package sqlstore

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// pollBatch is a transaction that records polls, with the records of the sidecars that the polls name.
type pollBatch struct {
	*Tx
	core    *Core
	records map[string]*keystore.Sidecar // as stored or changed
	changed map[string]bool              // false: the record is to be deleted
	// How many are on record, and how many of these the batch has added. They are read only if the polls may add some.
	live, gone           int64
	liveAdded, goneAdded int64
	granted              time.Duration // the largest lease + max_stale of the batch
}

// pruneAgain is the least time between two prunes that a full record causes. Smaller lets refused polls delay all writes;
// larger refuses sidecars for longer although records are over.
const pruneAgain = time.Second

// readBatch reads the records of the sidecars that the polls name. If the polls may add to a full record, it first deletes
// the records that are over.
func (s *Core) readBatch(b *pollBatch, polls []*poll) (err error) {
	names := make([]any, len(polls))
	for i, p := range polls {
		names[i] = p.Sidecar
	}
	if b.records, err = b.sidecars(names); err != nil || !b.mayAdd(polls) {
		return err
	}
	if err = b.readCounts(); err != nil {
		return err
	}
	full := b.live+int64(len(polls)) > s.MaxSidecars || b.gone+int64(len(polls)) > s.MaxGoneSidecars
	if !full || time.Since(s.forcedPrune) < pruneAgain {
		return nil
	}
	s.forcedPrune = time.Now()
	b.pruneSidecars(b.LeaseNow)
	if b.Err != nil {
		return b.Err
	}
	if b.records, err = b.sidecars(names); err != nil {
		return err
	}
	return b.readCounts()
}

func (b *pollBatch) mayAdd(polls []*poll) bool {
	return slices.ContainsFunc(polls, func(p *poll) bool { return p.Leave || b.onRecord(p.Sidecar) == nil })
}

// onRecord returns nil for a sidecar without a record, and for one that is gone and whose time is over.
func (b *pollBatch) onRecord(name string) *keystore.Sidecar {
	c := b.records[name]
	if c != nil && c.Gone && !b.LeaseNow.Before(c.StaleEndsAt) {
		return nil
	}
	return c
}

func (b *pollBatch) readCounts() error {
	return QueryRow(b.Ctx, b, "SELECT sidecars, gone_sidecars FROM head").Scan(&b.live, &b.gone)
}

// record records one poll and returns its result. Only an acknowledgement that moved counts as Moved: nearly all polls
// merely renew a lease, and must not wake everything that waits for a change.
func (b *pollBatch) record(p *poll) recorded {
	r := recorded{head: b.Head, err: keystore.ErrGone}
	if p.ctx.Err() != nil {
		return r // its caller has returned
	}
	next := keystore.Sidecar{Name: p.Sidecar}
	known := b.onRecord(p.Sidecar)
	if known != nil {
		next = *known
	}
	if err := next.CheckNumber(p.Poll); err != nil {
		r.err = err
		return r
	}
	next.Poll = p.Number
	switch {
	case p.Leave:
		b.deregister(next, b.LeaseNow.Add(p.Lease+p.MaxStale))
		return recorded{head: b.Head}
	case p.Revision < 0:
		return r
	}
	given := false
	if p.Epoch == b.Head.Epoch && p.Revision <= b.Head.Revision {
		r.lease, given = next.Record(p.Poll, b.Head.Revision, b.LeaseNow)
	}
	switch {
	case given && known == nil && b.live >= b.core.MaxSidecars:
		return recorded{head: b.Head, err: keystore.ErrFull}
	case given:
		r.err = nil
		b.granted = max(b.granted, r.lease+p.MaxStale)
		b.Moved = b.Moved || known == nil || next.Revision != known.Revision
	case known == nil:
		return r
	}
	b.put(next)
	return r
}

// deregister keeps the record of a sidecar that leaves, without a lease, until its stale time ends, or until the given
// time if that has passed.
func (b *pollBatch) deregister(next keystore.Sidecar, until time.Time) {
	known := b.onRecord(next.Name)
	if known != nil && known.Gone {
		b.put(next) // only the number changed
		return
	}
	b.Moved = b.Moved || known != nil
	if b.gone >= b.core.MaxGoneSidecars {
		b.count(b.records[next.Name], -1)
		delete(b.records, next.Name)
		b.changed[next.Name] = false
		return
	}
	if !b.LeaseNow.Before(next.StaleEndsAt) {
		next.StaleEndsAt = RoundUp(until)
	}
	b.put(goneAt(next, b.LeaseNow))
}

// goneAt is the record of a sidecar that leaves at that moment.
func goneAt(c keystore.Sidecar, now time.Time) keystore.Sidecar {
	c.Gone, c.Grants = true, nil
	if c.LeaseEndsAt.IsZero() || c.LeaseEndsAt.After(now) {
		c.LeaseEndsAt = now
	}
	return c
}

func (b *pollBatch) put(next keystore.Sidecar) {
	b.count(b.records[next.Name], -1)
	b.count(&next, 1)
	b.records[next.Name], b.changed[next.Name] = &next, true
}

func (b *pollBatch) count(c *keystore.Sidecar, n int64) {
	switch {
	case c == nil:
	case c.Gone:
		b.gone, b.goneAdded = b.gone+n, b.goneAdded+n
	default:
		b.live, b.liveAdded = b.live+n, b.liveAdded+n
	}
}

// write writes what has changed.
func (b *pollBatch) write() {
	var kept []*keystore.Sidecar
	for name, keep := range b.changed {
		if keep {
			kept = append(kept, b.records[name])
		} else {
			b.Exec("DELETE FROM sidecars WHERE name = ?", name)
		}
	}
	b.writeSidecars(kept)
	b.addCounts(b.liveAdded, b.goneAdded)
}

// perStatement is how many rows one statement names. Smaller needs more statements for a large batch; larger may exceed
// the number of arguments that a database takes.
const perStatement = 200

// sidecars reads the records with those names.
func (t *Tx) sidecars(names []any) (map[string]*keystore.Sidecar, error) {
	records := make(map[string]*keystore.Sidecar, len(names))
	for part := range slices.Chunk(names, perStatement) {
		_, err := collect(t.Ctx, t, func(row Scanner) (struct{}, error) {
			var c keystore.Sidecar
			err := row.Scan(&c.Name, &c.Poll, &c.Gone, &c.Revision, (*Stamp)(&c.LeaseEndsAt), (*Stamp)(&c.StaleEndsAt), (*Grants)(&c.Grants))
			records[c.Name] = &c
			return struct{}{}, err
		}, "SELECT name, poll, gone, revision, lease_ends_at, stale_ends_at, grants FROM sidecars WHERE name IN (?"+
			strings.Repeat(", ?", len(part)-1)+")", part...)
		if err != nil {
			return nil, err
		}
	}
	return records, nil
}

// writeSidecars writes records, each of another sidecar.
func (t *Tx) writeSidecars(records []*keystore.Sidecar) {
	const row = "(?, ?, ?, ?, ?, ?, ?)"
	for part := range slices.Chunk(records, perStatement) {
		var values []any
		for _, c := range part {
			values = append(values, c.Name, c.Poll, c.Gone, c.Revision, Stamp(c.LeaseEndsAt), Stamp(c.StaleEndsAt), Grants(c.Grants))
		}
		t.Exec("INSERT INTO sidecars (name, poll, gone, revision, lease_ends_at, stale_ends_at, grants) VALUES "+
			row+strings.Repeat(", "+row, len(part)-1)+`
			ON CONFLICT (name) DO UPDATE SET poll = excluded.poll, gone = excluded.gone, revision = excluded.revision,
			lease_ends_at = excluded.lease_ends_at, stale_ends_at = excluded.stale_ends_at, grants = excluded.grants`, values...)
	}
}

// addCounts adds to the numbers of sidecars on record.
func (t *Tx) addCounts(live, gone int64) {
	if live != 0 || gone != 0 {
		t.Exec("UPDATE head SET sidecars = sidecars + ?, gone_sidecars = gone_sidecars + ?", live, gone)
	}
}

// pruneSidecars deletes the records whose time was over at the cutoff and, of sidecars that are gone, all whose time is
// over. It counts the others.
func (t *Tx) pruneSidecars(cutoff time.Time) {
	t.Exec("DELETE FROM sidecars WHERE stale_ends_at < ? OR (gone AND stale_ends_at < ?)", Stamp(cutoff), Stamp(t.LeaseNow))
	t.Exec(`UPDATE head SET sidecars = (SELECT count(*) FROM sidecars WHERE NOT gone),
		gone_sidecars = (SELECT count(*) FROM sidecars WHERE gone)`)
}

// Forget implements keystore.Feed.
func (s *Core) Forget(ctx context.Context, actor, sidecar string) (keystore.Sidecar, error) {
	return Mutate(ctx, s.engine, "forget sidecar", actor, func(t *Tx) (keystore.Sidecar, error) {
		records, err := t.sidecars([]any{sidecar})
		if err != nil {
			return keystore.Sidecar{}, err
		}
		c := records[sidecar]
		if c == nil || c.Gone || !t.LeaseNow.Before(c.StaleEndsAt) {
			return keystore.Sidecar{}, keystore.ErrNotFound
		}
		gone := goneAt(*c, t.LeaseNow)
		t.writeSidecars([]*keystore.Sidecar{&gone})
		t.addCounts(-1, 1)
		t.event(keystore.SidecarForget, "", "", Detail{"name": sidecar})
		t.Moved = true
		wallSidecar(c, t.Step)
		return *c, nil
	})
}
