package sqlstore

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// PruneStep is how many log rows go in one transaction: other writers wait no
// longer than that takes.
const PruneStep = 5000

// Usage is pruned key by key, because an index over the hours of all keys would double the
// table: so many keys in one transaction, so many transactions in one Prune. A million
// keys have had their turn after some hours of one Prune a minute.
const (
	usageStep  = 250
	usageSteps = 20
)

// Prune implements keystore.Feed.
func (s *Core) Prune(ctx context.Context, retention time.Duration) error {
	for more := true; more; {
		var err error
		if more, err = Mutate(ctx, s.engine, "prune", "", func(t *Tx) (bool, error) { return t.Prune(retention) }); err != nil {
			return err
		}
	}
	for range usageSteps {
		last, err := Mutate(ctx, s.engine, "prune usage", "", func(t *Tx) (int64, error) { return t.pruneUsage(s.usagePruned.Load()) })
		if err != nil {
			return err
		}
		s.usagePruned.Store(last)
		if last == 0 {
			break
		}
	}
	return nil
}

// pruneUsage takes the old hours of the next keys after that seq. It returns the seq of the
// last of them, 0 if they were the last of all. The keys are named one by one: a planner without
// statistics would read the whole table for a subquery.
func (t *Tx) pruneUsage(after int64) (last int64, err error) {
	rows, err := t.QueryContext(t.Ctx, "SELECT seq FROM keys WHERE seq > ? ORDER BY seq LIMIT ?", after, usageStep)
	if err != nil {
		return 0, err
	}
	defer func() { _ = rows.Close() }()
	keys := make([]any, 0, usageStep+1)
	for rows.Next() {
		if err := rows.Scan(&last); err != nil {
			return 0, err
		}
		keys = append(keys, last)
	}
	if err := rows.Err(); err != nil || len(keys) == 0 {
		return 0, err
	}
	t.Exec("DELETE FROM usage WHERE key IN (?"+strings.Repeat(", ?", len(keys)-1)+") AND hour < ?",
		append(keys, Stamp(t.Now.Add(-keystore.UsageRetention)))...)
	if len(keys) < usageStep {
		return 0, nil
	}
	return last, nil
}

// Prune deletes from the oldest row on up to the first that is young enough, so
// that the log stays a gapless run even if the clock was put back once.
func (t *Tx) Prune(retention time.Duration) (more bool, err error) {
	cutoff := Stamp(t.Now.Add(-retention))
	t.pruneSidecars(t.LeaseNow.Add(-retention))
	t.Exec("DELETE FROM sessions WHERE expires_at < ?", cutoff)
	var oldest, keep int64
	err = t.QueryRowContext(t.Ctx, `SELECT coalesce(min(revision), 0), coalesce(
			(SELECT revision FROM log WHERE at >= ? ORDER BY revision LIMIT 1),
			(SELECT max(revision) FROM log), 0) FROM log`, cutoff).Scan(&oldest, &keep)
	if err != nil {
		return false, err
	}
	end := min(keep, oldest+PruneStep)
	if end > oldest {
		t.Exec("DELETE FROM log WHERE revision < ?", end)
	}
	return end < keep, nil
}

// NewEpoch implements keystore.Feed.
func (s *Core) NewEpoch(ctx context.Context, wait time.Duration) (keystore.Head, error) {
	return Mutate(ctx, s.engine, "new epoch", "", func(t *Tx) (keystore.Head, error) {
		t.NotBefore(wait)
		t.Exec("UPDATE head SET epoch = ?", rand.Text())
		if t.Err != nil {
			return keystore.Head{}, t.Err
		}
		return s.engine.HeadIn(t)
	})
}

// NotBefore has no change be effective before so much time has passed, nor before as much as the
// largest grant on record. Whether that is over does not matter: in an older copy that was
// restored its time is older, too.
func (t *Tx) NotBefore(wait time.Duration) {
	largest, err := t.largestGrant()
	if t.Err = errors.Join(t.Err, err); t.Err != nil {
		return
	}
	until := Stamp(RoundUp(t.LeaseNow.Add(max(wait, largest.size))))
	t.Exec("UPDATE head SET not_before = ? WHERE not_before IS NULL OR not_before < ?1", until)
	t.Moved = true
}
