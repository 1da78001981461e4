package sqlite

import (
	"context"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// pruneStep is how many log rows go in one transaction: other writers wait no
// longer than that takes.
const pruneStep = 5000

// Prune implements keystore.Feed.
func (s *Store) Prune(ctx context.Context, retention time.Duration) error {
	for more := true; more; {
		var err error
		if more, err = mutate(ctx, s, "prune", "", func(t *tx) (bool, error) { return t.prune(retention) }); err != nil {
			return err
		}
	}
	return nil
}

// prune deletes from the oldest row on up to the first that is young enough, so
// that the log stays a gapless run even if the clock was put back once.
func (t *tx) prune(retention time.Duration) (more bool, err error) {
	cutoff := stamp(t.now.Add(-retention))
	t.exec("DELETE FROM sidecars WHERE stale_ends_at < ?", cutoff)
	t.exec("DELETE FROM sessions WHERE expires_at < ?", cutoff)
	var oldest, keep int64
	err = t.QueryRowContext(t.ctx, `SELECT coalesce(min(revision), 0), coalesce(
			(SELECT revision FROM log WHERE at >= ? ORDER BY revision LIMIT 1),
			(SELECT max(revision) FROM log), 0) FROM log`, cutoff).Scan(&oldest, &keep)
	if err != nil {
		return false, err
	}
	end := min(keep, oldest+pruneStep)
	if end > oldest {
		t.exec("DELETE FROM log WHERE revision < ?", end)
	}
	return end < keep, nil
}

// NewEpoch implements keystore.Feed.
func (s *Store) NewEpoch(ctx context.Context, wait time.Duration) (keystore.Head, error) {
	return mutate(ctx, s, "new epoch", "", func(t *tx) (keystore.Head, error) {
		t.exec("UPDATE head SET epoch = lower(hex(randomblob(16))), not_before = max(coalesce(not_before, 0), ?)",
			stamp(roundUp(t.now.Add(wait))))
		t.moved = true
		return s.head(t.ctx, t)
	})
}
