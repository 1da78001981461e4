package sqlite

import (
	"context"
	"database/sql"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

// leastStep is the smallest difference between the two clocks that counts as a step of the wall clock. Smaller takes the
// time between two readings for a step; larger lets leases end that much too early after a restart.
const leastStep = 100 * time.Millisecond

// clock has two readings. The wall clock is for people: created_at, expiries, the audit. The lease clock is the wall clock
// at the moment when the store was opened plus the monotonic time since then: no step of the wall clock moves it. A process
// that opens a file that another process has open continues with the other's lease clock.
type clock struct {
	wall    func() time.Time
	elapsed func() time.Duration // since the store was opened
	opened  time.Time            // by the lease clock
}

func newClock(opts Options) clock {
	c := clock{wall: opts.Now}
	if c.wall == nil {
		c.wall = time.Now
	}
	opened := c.wall()
	c.opened = opened.Round(0)
	c.elapsed = func() time.Duration { return c.wall().Sub(opened) } // monotonic for time.Now
	if opts.Elapsed != nil {
		began := opts.Elapsed()
		c.elapsed = func() time.Duration { return opts.Elapsed() - began }
	}
	return c
}

// lease returns the lease clock.
func (c *clock) lease() time.Time { return c.opened.Add(c.elapsed()).Round(0) }

// stepped returns how far the wall clock is ahead of the lease clock because it was set, negative if it was set back.
func (c *clock) stepped() time.Duration {
	d := c.wall().Round(0).Sub(c.lease())
	if d.Abs() < leastStep {
		return 0
	}
	return d.Round(time.Microsecond)
}

// noteStep writes the step of the wall clock, so that the next process can correct the times of this one's lease clock. It
// returns the step on record after the commit.
func (s *Store) noteStep(t *sqlstore.Tx) time.Duration {
	if (t.Step - s.stepNoted).Abs() < leastStep {
		return s.stepNoted
	}
	t.Exec("UPDATE head SET clock_step = ?", t.Step.Microseconds())
	return t.Step
}

// noteLastStep writes a step that no mutation has written yet, before the writer stops. If it fails, the step is lost as it
// is after a kill.
func (s *Store) noteLastStep() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.Mutate(ctx, sqlstore.LanePolls, "", func(*sqlstore.Tx) error { return nil })
}

// correctStep moves the times of the last process's lease clock by the step of the wall clock during its run, if this
// process is alone. Else it returns that step: the other process still counts by that lease clock.
func correctStep(ctx context.Context, writer *sql.DB, alone bool) (step time.Duration, err error) {
	tx, err := writer.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback() }() // no effect after the commit
	var micros int64
	if err := tx.QueryRowContext(ctx, "SELECT clock_step FROM head").Scan(&micros); err != nil || micros == 0 || !alone {
		return time.Duration(micros) * time.Microsecond, err
	}
	for _, correct := range []string{
		`UPDATE sidecars SET lease_ends_at = lease_ends_at + ?1, stale_ends_at = stale_ends_at + ?1, grants = (
			SELECT json_group_array(json_array(value->0, (value->>1) + ?1)) FROM json_each(grants))`,
		"UPDATE head SET not_before = not_before + ?1, largest_grant_at = largest_grant_at + ?1, clock_step = 0",
	} {
		if _, err := tx.ExecContext(ctx, correct, micros); err != nil {
			return 0, err
		}
	}
	return 0, tx.Commit()
}
