package sqlstore

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// PruneStep is how many log rows one transaction deletes. Smaller makes a prune take more transactions; larger makes other
// writes wait longer.
const PruneStep = 5000

// Usage is pruned key by key, because an index over the hours of all keys would double the table. With one Prune a minute,
// a million keys take some hours.
const (
	// usageStep is how many keys one transaction prunes. Smaller takes more transactions; larger makes other writes wait longer.
	usageStep = 250
	// usageSteps is how many transactions one Prune makes for usage. Smaller keeps old counts longer; larger makes Prune longer.
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

// pruneUsage deletes the old hours of the next keys after that seq. It returns the seq of the last of them, or 0 if there
// are no more. The statement names the keys one by one: a planner without statistics would read the whole table for a
// subquery.
func (t *Tx) pruneUsage(after int64) (last int64, err error) {
	keys, err := collect(t.Ctx, t, scanOne[any], "SELECT seq FROM keys WHERE seq > ? ORDER BY seq LIMIT ?", after, usageStep)
	if err != nil || len(keys) == 0 {
		return 0, err
	}
	if len(keys) == usageStep {
		last = keys[usageStep-1].(int64)
	}
	t.Exec("DELETE FROM usage WHERE key IN (?"+strings.Repeat(", ?", len(keys)-1)+") AND hour < ?",
		append(keys, Stamp(t.Now.Add(-keystore.UsageRetention)))...)
	return last, nil
}

// Prune deletes log rows from the oldest up to the first one that is young enough. So the log has no gap even if the clock
// was set back once.
func (t *Tx) Prune(retention time.Duration) (more bool, err error) {
	cutoff := Stamp(t.Now.Add(-retention))
	t.pruneSidecars(t.LeaseNow.Add(-retention))
	t.Exec("DELETE FROM sessions WHERE expires_at < ?", cutoff)
	var oldest, keep int64
	err = QueryRow(t.Ctx, t, `SELECT coalesce(min(revision), 0), coalesce(
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

// NotBefore delays the moment at which any change is effective by the wait, or by the largest grant on record if that is
// longer. It does not matter whether that grant is over: in a restored older copy its time is older, too.
func (t *Tx) NotBefore(wait time.Duration) {
	largest, err := t.largestGrant()
	if t.Err = errors.Join(t.Err, err); t.Err != nil {
		return
	}
	until := Stamp(RoundUp(t.LeaseNow.Add(max(wait, largest.size))))
	t.Exec("UPDATE head SET not_before = ? WHERE not_before IS NULL OR not_before < ?1", until)
	t.Moved = true
}
