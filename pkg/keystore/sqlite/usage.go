package sqlite

import (
	"context"
	"encoding/json"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

// RecordUsage implements keystore.Admin. Whose report it was is not kept. The
// counts belong to the hour of the report, which comes about a minute after the use: so a
// sidecar's wrong clock puts nothing into another year.
func (s *Store) RecordUsage(ctx context.Context, _ string, used []keystore.Usage) error {
	if len(used) == 0 {
		return sqlstore.Failed(ctx, s, "record usage", ctx.Err())
	}
	var rows [][4]any // digest, last used, allowed, denied
	for _, r := range sqlstore.MergeUsage(used, s.clock.wall()) {
		rows = append(rows, [4]any{r.Digest.Hex(), r.LastUsedAt, r.Allowed, r.Denied})
	}
	report, err := json.Marshal(rows)
	if err != nil {
		return sqlstore.Failed(ctx, s, "record usage", err)
	}
	_, err = sqlstore.Mutate(ctx, s, "record usage", "", func(t *sqlstore.Tx) (struct{}, error) {
		t.Exec("CREATE TEMP TABLE IF NOT EXISTS report (key INTEGER PRIMARY KEY, last INTEGER, allowed INTEGER, denied INTEGER)")
		t.Exec("DELETE FROM report")
		t.Exec(`INSERT INTO report SELECT k.seq, u.value->>1, u.value->>2, u.value->>3
			FROM json_each(?) u JOIN keys k ON k.digest = unhex(u.value->>0)`, string(report))
		t.Exec(`UPDATE keys SET last_used_at = r.last FROM report r
			WHERE keys.seq = r.key AND r.last > coalesce(keys.last_used_at, 0)`)
		// A sum that leaves the integers must not fail the report.
		t.Exec(`INSERT INTO usage (key, hour, allowed, denied) SELECT key, ?, allowed, denied FROM report WHERE allowed + denied > 0
			ON CONFLICT DO UPDATE SET allowed = min(allowed + excluded.allowed, ?2), denied = min(denied + excluded.denied, ?2)`,
			sqlstore.Stamp(t.Now.Truncate(time.Hour)), sqlstore.MaxCount)
		return struct{}{}, nil
	})
	return err
}
