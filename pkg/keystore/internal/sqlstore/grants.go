package sqlstore

import (
	"time"
)

// noteGrantAgain is the time after which the largest grant is put on record again when it is given
// again. Smaller writes the head's row with more polls; larger keeps a grant on record for
// longer than it lasts.
const noteGrantAgain = time.Minute

// grant is the largest lease + max_stale on record, and when it was given, less than
// noteGrantAgain ago when it was last given.
type grant struct {
	epoch string // in which this process has seen it
	size  time.Duration
	at    time.Time
}

// over reports whether no sidecar can hold the grant any longer.
func (g grant) over(now time.Time) bool { return !now.Before(g.at.Add(g.size + noteGrantAgain)) }

// holds reports whether the record says enough of one more grant of that size.
func (g grant) holds(size time.Duration, now time.Time) bool {
	return size < g.size && !g.over(now) || size == g.size && now.Before(g.at.Add(noteGrantAgain))
}

// largestGrant reads the one on record.
func (t *Tx) largestGrant() (g grant, err error) {
	var micros int64
	err = t.QueryRowContext(t.Ctx, "SELECT largest_grant, largest_grant_at FROM head").Scan(&micros, (*Stamp)(&g.at))
	g.size = time.Duration(micros) * time.Microsecond
	return g, err
}

// noteGrant puts the largest grant of the transaction on record if it is larger than the one there,
// or that one is over. Known is the one on record as this process has seen it last; what is on
// record now is returned.
func (f *fleet) noteGrant(known grant) (grant, error) {
	size := roundUpSize(f.granted)
	if size == 0 || known.epoch == f.head.Epoch && known.holds(size, f.LeaseNow) {
		return known, nil
	}
	onRecord, err := f.largestGrant()
	if err != nil {
		return known, err
	}
	onRecord.epoch = f.head.Epoch
	if onRecord.holds(size, f.LeaseNow) {
		return onRecord, nil
	}
	if size < onRecord.size { // which is over; others may have been given less since, and hold it still
		var last time.Time
		if err := f.QueryRowContext(f.Ctx, "SELECT max(stale_ends_at) FROM sidecars").Scan((*Stamp)(&last)); err != nil {
			return known, err
		}
		size = max(size, roundUpSize(last.Sub(f.LeaseNow)))
	}
	f.Exec("UPDATE head SET largest_grant = ?, largest_grant_at = ?", size.Microseconds(), Stamp(f.LeaseNow))
	return grant{f.head.Epoch, size, f.LeaseNow}, f.Err
}

// roundUpSize returns the size in microseconds, 0 for a negative one.
func roundUpSize(d time.Duration) time.Duration {
	return max(0, (d + time.Microsecond - 1).Truncate(time.Microsecond))
}
