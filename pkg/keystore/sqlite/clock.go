package sqlite

import (
	"context"
	"database/sql"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

// leastStep is the smallest difference between the two clocks that counts as a step of the
// wall clock. Smaller takes the time between two readings for a step; larger lets leases end that
// much too early after a restart.
const leastStep = 100 * time.Millisecond

// clock has two readings. The wall clock is for what people read: created_at, expiries, the
// audit. The lease clock is the wall clock of the moment at which the store was opened and
// the monotonic time since: no step of the wall clock moves it.
type clock struct {
	wall    func() time.Time
	elapsed func() time.Duration // since the store was opened
	opened  time.Time
}

func newClock(opts Options) clock {
	c := clock{wall: opts.Now}
	if c.wall == nil {
		c.wall = time.Now
	}
	c.opened = c.wall()
	c.elapsed = func() time.Duration { return c.wall().Sub(c.opened) } // of time.Now it is monotonic
	if opts.Elapsed != nil {
		began := opts.Elapsed()
		c.elapsed = func() time.Duration { return opts.Elapsed() - began }
	}
	return c
}

// lease returns the lease clock.
func (c *clock) lease() time.Time { return c.opened.Add(c.elapsed()).Round(0) }

// stepped returns how far the wall clock is ahead of the lease clock, because it was put
// forward since the store was opened; negative if it was put back.
func (c *clock) stepped() time.Duration {
	d := c.wall().Round(0).Sub(c.lease())
	if d.Abs() < leastStep {
		return 0
	}
	return d.Round(time.Microsecond)
}

// shown returns the moment of the lease clock by the wall clock.
func shown(t time.Time, step time.Duration) time.Time {
	if t.IsZero() {
		return t
	}
	return t.Add(step)
}

// showSidecar converts the record's times to the wall clock.
func showSidecar(c *keystore.Sidecar, step time.Duration) {
	c.LeaseEndsAt, c.StaleEndsAt = shown(c.LeaseEndsAt, step), shown(c.StaleEndsAt, step)
	for i := range c.Grants {
		c.Grants[i].StaleEndsAt = shown(c.Grants[i].StaleEndsAt, step)
	}
}

// noteStep puts on record how far the wall clock has been moved, so that the next process can
// correct the times that were written by this one's lease clock. It returns what is on record
// once the transaction is committed.
func (s *Store) noteStep(t *sqlstore.Tx) time.Duration {
	step := s.clock.stepped()
	if (step - s.stepNoted).Abs() < leastStep {
		return s.stepNoted
	}
	t.Exec("UPDATE head SET clock_step = ?", step.Microseconds())
	return step
}

// noteLastStep puts a step of the wall clock on record that no mutation has noted yet, before the
// writer stops. A failure leaves what a killed process leaves.
func (s *Store) noteLastStep() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.Mutate(ctx, sqlstore.LanePolls, "", func(*sqlstore.Tx) error { return nil })
}

// Forget implements keystore.Feed.
func (s *Store) Forget(ctx context.Context, actor, sidecar string) (keystore.Sidecar, error) {
	c, err := s.Core.Forget(ctx, actor, sidecar)
	showSidecar(&c, s.clock.stepped())
	return c, err
}

// correctStep moves the times on record that were written by the lease clock of the process before,
// by as much as the wall clock was moved during its life.
func correctStep(ctx context.Context, writer *sql.DB) error {
	tx, err := writer.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // of no effect after the commit
	var step int64
	if err := tx.QueryRowContext(ctx, "SELECT clock_step FROM head").Scan(&step); err != nil || step == 0 {
		return err
	}
	for _, correct := range []string{
		`UPDATE sidecars SET lease_ends_at = lease_ends_at + ?1, stale_ends_at = stale_ends_at + ?1, grants = (
			SELECT json_group_array(json_array(value->0, (value->>1) + ?1)) FROM json_each(grants))`,
		"UPDATE head SET not_before = not_before + ?1, largest_grant_at = largest_grant_at + ?1, clock_step = 0",
	} {
		if _, err := tx.ExecContext(ctx, correct, step); err != nil {
			return err
		}
	}
	return tx.Commit()
}
