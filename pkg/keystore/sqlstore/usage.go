package sqlstore

import (
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// MaxCount bounds what is counted of one key in one hour.
const MaxCount = 1 << 53

// UsageRow is [digest, last used, allowed, denied], as the query reads it.
type UsageRow [4]any

// MergeUsage makes one row for each digest. Times after now do not count.
func MergeUsage(used []keystore.Usage, now time.Time) []UsageRow {
	at := make(map[credential.Digest]int, len(used))
	rows := make([]UsageRow, 0, len(used))
	for _, u := range used {
		i, ok := at[u.Digest]
		if !ok {
			i = len(rows)
			at[u.Digest] = i
			rows = append(rows, UsageRow{u.Digest.Hex(), int64(0), int64(0), int64(0)})
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

func count(n int64) int64 { return min(max(n, 0), MaxCount) }
