package sqlite

import (
	"context"
	"encoding/json"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// RecordUsage implements keystore.Admin. Whose report it was is not kept. The
// counts belong to the hour of the report, which comes about a minute after the use: so a
// sidecar's wrong clock puts nothing into another year.
func (s *Store) RecordUsage(ctx context.Context, _ string, used []keystore.Usage) error {
	if len(used) == 0 {
		return failed(ctx, "record usage", ctx.Err())
	}
	report, err := json.Marshal(mergeUsage(used, s.now()))
	if err != nil {
		return failed(ctx, "record usage", err)
	}
	_, err = mutate(ctx, s, "record usage", "", func(t *tx) (struct{}, error) {
		t.exec("CREATE TEMP TABLE IF NOT EXISTS report (key INTEGER PRIMARY KEY, last INTEGER, allowed INTEGER, denied INTEGER)")
		t.exec("DELETE FROM report")
		t.exec(`INSERT INTO report SELECT k.seq, u.value->>1, u.value->>2, u.value->>3
			FROM json_each(?) u JOIN keys k ON k.digest = unhex(u.value->>0)`, string(report))
		t.exec(`UPDATE keys SET last_used_at = r.last FROM report r
			WHERE keys.seq = r.key AND r.last > coalesce(keys.last_used_at, 0)`)
		// A sum that leaves the integers must not fail the report.
		t.exec(`INSERT INTO usage (key, hour, allowed, denied) SELECT key, ?, allowed, denied FROM report WHERE allowed + denied > 0
			ON CONFLICT DO UPDATE SET allowed = min(allowed + excluded.allowed, ?2), denied = min(denied + excluded.denied, ?2)`,
			stamp(t.now.Truncate(time.Hour)), maxCount)
		return struct{}{}, nil
	})
	return err
}

const maxCount = 1 << 53

// usageRow is [digest, last used, allowed, denied], as the query reads it.
type usageRow [4]any

// mergeUsage makes one row for each digest. Times after now do not count.
func mergeUsage(used []keystore.Usage, now time.Time) []usageRow {
	at := make(map[credential.Digest]int, len(used))
	rows := make([]usageRow, 0, len(used))
	for _, u := range used {
		i, ok := at[u.Digest]
		if !ok {
			i = len(rows)
			at[u.Digest] = i
			rows = append(rows, usageRow{u.Digest.Hex(), int64(0), int64(0), int64(0)})
		}
		r := rows[i]
		if !u.LastUsedAt.After(now) {
			r[1] = max(r[1].(int64), u.LastUsedAt.UnixMicro())
		}
		r[2] = count(r[2].(int64) + count(u.Allowed))
		r[3] = count(r[3].(int64) + count(u.Denied))
		rows[i] = r
	}
	return rows
}

func count(n int64) int64 { return min(max(n, 0), maxCount) }
