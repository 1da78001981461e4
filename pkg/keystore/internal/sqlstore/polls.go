package sqlstore

import (
	"context"
	"errors"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// ErrClosed is the error of calls after Close.
var ErrClosed = errors.New("the store is closed")

// poll is a RecordPoll that waits to be recorded.
type poll struct {
	keystore.Poll
	ctx  context.Context
	done chan recorded
}

// recorded is the result of RecordPoll.
type recorded struct {
	head  keystore.Head
	lease time.Duration
	err   error
}

// RecordPoll implements keystore.Feed.
func (s *Core) RecordPoll(ctx context.Context, p keystore.Poll) (keystore.Head, time.Duration, error) {
	waiting := &poll{Poll: p, ctx: ctx, done: make(chan recorded, 1)}
	var r recorded
	select {
	case s.polls <- waiting:
		select {
		case r = <-waiting.done:
		case <-ctx.Done():
			r.err = ctx.Err()
		}
	case <-ctx.Done():
		r.err = ctx.Err()
	case <-s.stop:
		r.err = ErrClosed
	}
	return r.head, r.lease, Wrap(ctx, s.engine, "record poll", r.err)
}

// recordPolls records polls until Stop. Polls that arrive during a transaction share the next one, because each
// transaction costs a sync of the disk.
func (s *Core) recordPolls() {
	for {
		select {
		case p := <-s.polls:
			s.recordBatch(s.gather(s.waitingPolls([]*poll{p})))
		case <-s.stop:
			return
		}
	}
}

const (
	// burst is how many polls that wait together are a burst. Smaller delays single polls; larger makes more transactions of
	// a burst, which take the processor from the sidecars' requests.
	burst = 16
	// burstGap is the time without a poll that ends a burst. Smaller makes more transactions of one on a busy machine; larger
	// delays the last poll of each.
	burstGap = 300 * time.Microsecond
	// burstTime is how long a burst is gathered. Smaller makes more transactions of it; larger delays its first polls.
	burstTime = 5 * time.Millisecond
)

// gather adds the polls of a burst: a change wakes all sidecars, and each acknowledges it by its next poll.
func (s *Core) gather(batch []*poll) []*poll {
	if len(batch) < burst {
		return batch
	}
	until := time.Now().Add(burstTime)
	gap := time.NewTimer(burstGap)
	defer gap.Stop()
	for {
		select {
		case p := <-s.polls:
			batch = append(batch, p)
		case <-gap.C:
			return batch
		}
		left := time.Until(until)
		if left <= 0 {
			return batch
		}
		gap.Reset(min(burstGap, left))
	}
}

func (s *Core) recordBatch(batch []*poll) {
	var results []recorded
	var largest grant
	err := s.engine.Mutate(context.Background(), LanePolls, "", func(t *Tx) error {
		batch = s.waitingPolls(batch)
		b := &pollBatch{Tx: t, core: s, changed: map[string]bool{}}
		err := s.readBatch(b, batch)
		if err != nil {
			return err
		}
		for _, p := range batch {
			results = append(results, b.record(p))
		}
		b.write()
		if largest, err = b.noteGrant(s.largest); err != nil {
			return err
		}
		return t.Err
	})
	if err == nil {
		s.largest = largest
	}
	for i, p := range batch {
		if err != nil {
			p.done <- recorded{err: err}
		} else {
			p.done <- results[i]
		}
	}
}

// waitingPolls adds all polls that wait at this moment to the batch.
func (s *Core) waitingPolls(batch []*poll) []*poll {
	for {
		select {
		case p := <-s.polls:
			batch = append(batch, p)
		default:
			return batch
		}
	}
}

// noteGrantAgain is the time after which a largest grant that is given again is written again. Smaller writes the head's
// row with more polls; larger makes a new epoch wait longer for a grant that was given last in that time.
const noteGrantAgain = time.Minute

// grant is the largest lease + max_stale on record. It was last given within noteGrantAgain after at.
type grant struct {
	epoch string // in which this process read it
	size  time.Duration
	at    time.Time
}

// over reports whether no sidecar can hold the grant any longer.
func (g grant) over(now time.Time) bool { return !now.Before(g.at.Add(g.size + noteGrantAgain)) }

// covers reports whether the record needs no change for one more grant of that size.
func (g grant) covers(size time.Duration, now time.Time) bool {
	return size < g.size && !g.over(now) || size == g.size && now.Before(g.at.Add(noteGrantAgain))
}

// largestGrant reads the grant on record.
func (t *Tx) largestGrant() (g grant, err error) {
	var micros int64
	err = QueryRow(t.Ctx, t, "SELECT largest_grant, largest_grant_at FROM head").Scan(&micros, (*Stamp)(&g.at))
	g.size = time.Duration(micros) * time.Microsecond
	return g, err
}

// noteGrant writes the largest grant of the batch if it is larger than the one on record, or that one is over. Known is
// the grant on record as this process last read it. It returns the grant that is on record now.
func (b *pollBatch) noteGrant(known grant) (grant, error) {
	size := roundUpSize(b.granted)
	if size == 0 || known.epoch == b.Head.Epoch && known.covers(size, b.LeaseNow) {
		return known, nil
	}
	onRecord, err := b.largestGrant()
	if err != nil {
		return known, err
	}
	onRecord.epoch = b.Head.Epoch
	if onRecord.covers(size, b.LeaseNow) {
		return onRecord, nil
	}
	if size < onRecord.size { // which is over; smaller grants of other sidecars may not be
		var last time.Time
		if err := QueryRow(b.Ctx, b, "SELECT max(stale_ends_at) FROM sidecars").Scan((*Stamp)(&last)); err != nil {
			return known, err
		}
		size = max(size, roundUpSize(last.Sub(b.LeaseNow)))
	}
	b.Exec("UPDATE head SET largest_grant = ?, largest_grant_at = ?", size.Microseconds(), Stamp(b.LeaseNow))
	return grant{b.Head.Epoch, size, b.LeaseNow}, b.Err
}

// roundUpSize rounds up to microseconds, and returns 0 for a negative size.
func roundUpSize(d time.Duration) time.Duration {
	return max(0, (d + time.Microsecond - 1).Truncate(time.Microsecond))
}
