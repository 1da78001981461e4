package sqlstore

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// PruneStep is how many log rows go in one transaction: other writers wait no
// longer than that takes.
const PruneStep = 5000

// Prune implements keystore.Feed.
func (s *Core) Prune(ctx context.Context, retention time.Duration) error {
	for more := true; more; {
		var err error
		if more, err = Mutate(ctx, s.engine, "prune", "", func(t *Tx) (bool, error) { return t.Prune(retention) }); err != nil {
			return err
		}
	}
	return nil
}

// Prune deletes from the oldest row on up to the first that is young enough, so
// that the log stays a gapless run even if the clock was put back once.
func (t *Tx) Prune(retention time.Duration) (more bool, err error) {
	cutoff := Stamp(t.Now.Add(-retention))
	t.Exec("DELETE FROM sidecars WHERE stale_ends_at < ?", cutoff)
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

// NotBefore has no change be effective before so much time has passed.
func (t *Tx) NotBefore(wait time.Duration) {
	until := Stamp(RoundUp(t.Now.Add(wait)))
	t.Exec("UPDATE head SET not_before = ? WHERE not_before IS NULL OR not_before < ?1", until)
	t.Moved = true
}
