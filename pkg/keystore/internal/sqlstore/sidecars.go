package sqlstore

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// SelectSidecars reads what ScanSidecars takes.
const SelectSidecars = "SELECT name, poll, gone, revision, lease_ends_at, stale_ends_at, grants FROM sidecars"

// ScanSidecars reads the rows of SelectSidecars, and closes them.
func ScanSidecars(rows *sql.Rows) ([]keystore.Sidecar, error) {
	defer func() { _ = rows.Close() }()
	sidecars := []keystore.Sidecar{}
	for rows.Next() {
		var c keystore.Sidecar
		err := rows.Scan(&c.Name, &c.Poll, &c.Gone, &c.Revision, (*Stamp)(&c.LeaseEndsAt), (*Stamp)(&c.StaleEndsAt), (*Grants)(&c.Grants))
		if err != nil {
			return nil, err
		}
		sidecars = append(sidecars, c)
	}
	return sidecars, rows.Err()
}

// SidecarsAfter returns the name after which a page of the sidecars' list begins, "" for the first.
func (s *Core) SidecarsAfter(page keystore.Page) (string, error) {
	name, err := s.listing("sidecars").beginAt(page)
	return string(name), err
}

// SidecarsPage makes a page of the list, which has one entry more than that if there is another
// page, and returns the cursor of that one.
func (s *Core) SidecarsPage(page keystore.Page, list []keystore.Sidecar) ([]keystore.Sidecar, string) {
	if len(list) <= page.Limit {
		return list, ""
	}
	list = list[:page.Limit]
	return list, s.listing("sidecars").cursorAt([]byte(list[page.Limit-1].Name))
}

// fleet is a transaction that records polls, with the sidecars that these name.
type fleet struct {
	*Tx
	head    keystore.Head
	known   map[string]*keystore.Sidecar // those that have a row
	changed map[string]bool              // whether the sidecar stays on record
	// How many are on record, and how many of these the transaction has added. They are
	// read only if the polls may add some.
	live, gone           int64
	liveAdded, goneAdded int64
	granted              time.Duration // the largest lease + max_stale that was given
}

// makeRoomAgain is the least time between two prunes that a full record causes. Smaller
// lets refused polls delay all writes; larger refuses sidecars although there is room.
const makeRoomAgain = time.Second

// readFleet reads the sidecars that the polls name. If they may add to a full record, it
// first deletes those whose time is over.
func (s *Core) readFleet(f *fleet, polls []*poll) (err error) {
	if f.known, err = f.sidecarsOf(polls); err != nil || !f.mayAdd(polls) {
		return err
	}
	if err = f.readCounts(); err != nil {
		return err
	}
	full := f.live+int64(len(polls)) > keystore.MaxSidecars || f.gone+int64(len(polls)) > keystore.MaxGoneSidecars
	if !full || time.Since(s.roomMade) < makeRoomAgain {
		return nil
	}
	s.roomMade = time.Now()
	f.pruneSidecars(f.LeaseNow)
	if f.Err != nil {
		return f.Err
	}
	if f.known, err = f.sidecarsOf(polls); err != nil {
		return err
	}
	return f.readCounts()
}

func (f *fleet) mayAdd(polls []*poll) bool {
	return slices.ContainsFunc(polls, func(p *poll) bool { return p.Leave || f.onRecord(p.Sidecar) == nil })
}

// onRecord returns nil also for one that has left or was forgotten and whose time is over.
func (f *fleet) onRecord(name string) *keystore.Sidecar {
	c := f.known[name]
	if c != nil && c.Gone && !f.LeaseNow.Before(c.StaleEndsAt) {
		return nil
	}
	return c
}

func (f *fleet) readCounts() error {
	return f.QueryRowContext(f.Ctx, "SELECT sidecars, gone_sidecars FROM head").Scan(&f.live, &f.gone)
}

// record records one poll and returns its outcome. It marks an acknowledgement that moved: a mere
// renewal of a lease, which is what nearly all polls are, must not wake everybody.
func (f *fleet) record(p *poll) recorded {
	r := recorded{head: f.head, err: keystore.ErrGone}
	select {
	case <-p.ctx.Done():
		return r // its caller has returned
	default:
	}
	next := keystore.Sidecar{Name: p.Sidecar}
	known := f.onRecord(p.Sidecar)
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
		f.leave(next, f.LeaseNow.Add(p.Lease+p.MaxStale))
		return recorded{head: f.head}
	case p.Revision < 0:
		return r
	}
	given := false
	if p.Epoch == f.head.Epoch && p.Revision <= f.head.Revision {
		r.lease, given = next.Record(p.Poll, f.head.Revision, f.LeaseNow)
	}
	switch {
	case given && known == nil && f.live >= keystore.MaxSidecars:
		return recorded{head: f.head, err: keystore.ErrFull}
	case given:
		r.err = nil
		f.granted = max(f.granted, r.lease+p.MaxStale)
		f.Moved = f.Moved || known == nil || next.Revision != known.Revision
	case known == nil:
		return r
	}
	f.put(next)
	return r
}

// leave keeps the record of a sidecar that has left, without a lease, as long as it would
// have counted; until that moment if it does not count.
func (f *fleet) leave(next keystore.Sidecar, until time.Time) {
	known := f.onRecord(next.Name)
	if known != nil && known.Gone {
		f.put(next) // the number alone
		return
	}
	f.Moved = f.Moved || known != nil
	if f.gone >= keystore.MaxGoneSidecars {
		f.drop(next.Name)
		return
	}
	if !f.LeaseNow.Before(next.StaleEndsAt) {
		next.StaleEndsAt = RoundUp(until)
	}
	f.put(leftAt(next, f.LeaseNow))
}

// leftAt is the record of a sidecar that left at that moment.
func leftAt(c keystore.Sidecar, now time.Time) keystore.Sidecar {
	c.Gone, c.Grants = true, nil
	if c.LeaseEndsAt.IsZero() || c.LeaseEndsAt.After(now) {
		c.LeaseEndsAt = now
	}
	return c
}

func (f *fleet) put(next keystore.Sidecar) {
	f.count(f.known[next.Name], -1)
	f.count(&next, 1)
	f.known[next.Name], f.changed[next.Name] = &next, true
}

func (f *fleet) drop(name string) {
	f.count(f.known[name], -1)
	delete(f.known, name)
	f.changed[name] = false
}

func (f *fleet) count(c *keystore.Sidecar, n int64) {
	switch {
	case c == nil:
	case c.Gone:
		f.gone, f.goneAdded = f.gone+n, f.goneAdded+n
	default:
		f.live, f.liveAdded = f.live+n, f.liveAdded+n
	}
}

// write writes what has changed.
func (f *fleet) write() {
	var kept []*keystore.Sidecar
	for name, stays := range f.changed {
		if stays {
			kept = append(kept, f.known[name])
		} else {
			f.Exec("DELETE FROM sidecars WHERE name = ?", name)
		}
	}
	f.keep(kept)
	f.addSidecars(f.liveAdded, f.goneAdded)
}

// perStatement bounds how many sidecars one statement speaks of.
const perStatement = 200

// sidecarsOf reads those that have a row.
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
	const row = "(?, ?, ?, ?, ?, ?, ?)"
	for part := range slices.Chunk(sidecars, perStatement) {
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

// addSidecars counts sidecars that are on record now, or no longer if the numbers are negative.
func (t *Tx) addSidecars(live, gone int64) {
	if live != 0 || gone != 0 {
		t.Exec("UPDATE head SET sidecars = sidecars + ?, gone_sidecars = gone_sidecars + ?", live, gone)
	}
}

// pruneSidecars deletes those whose time was over at the cutoff, and of those that have left
// or were forgotten all whose time is over. It counts the others.
func (t *Tx) pruneSidecars(cutoff time.Time) {
	t.Exec("DELETE FROM sidecars WHERE stale_ends_at < ? OR (gone AND stale_ends_at < ?)", Stamp(cutoff), Stamp(t.LeaseNow))
	t.Exec(`UPDATE head SET sidecars = (SELECT count(*) FROM sidecars WHERE NOT gone),
		gone_sidecars = (SELECT count(*) FROM sidecars WHERE gone)`)
}

// Forget implements keystore.Feed.
func (s *Core) Forget(ctx context.Context, actor, sidecar string) (keystore.Sidecar, error) {
	return Mutate(ctx, s.engine, "forget sidecar", actor, func(t *Tx) (keystore.Sidecar, error) {
		known, err := t.sidecarsOf([]*poll{{Poll: keystore.Poll{Sidecar: sidecar}}})
		if err != nil {
			return keystore.Sidecar{}, err
		}
		c := known[sidecar]
		if c == nil || c.Gone || !t.LeaseNow.Before(c.StaleEndsAt) {
			return keystore.Sidecar{}, keystore.ErrNotFound
		}
		left := leftAt(*c, t.LeaseNow)
		t.keep([]*keystore.Sidecar{&left})
		t.addSidecars(-1, 1)
		t.event(keystore.SidecarForget, "", "", map[string]string{"name": sidecar})
		t.Moved = true
		return *c, nil
	})
}
