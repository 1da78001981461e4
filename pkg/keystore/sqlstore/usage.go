package sqlstore

import (
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// MaxCount bounds what is counted of one key in one hour.
const MaxCount = 1 << 53

// UsageRow is one key's use: the last time in microseconds since 1970, 0 for none
// that counts.
type UsageRow struct {
	Digest                      credential.Digest
	LastUsedAt, Allowed, Denied int64
}

// MergeUsage makes one row for each digest. Times after now do not count.
func MergeUsage(used []keystore.Usage, now time.Time) []UsageRow {
	at := make(map[credential.Digest]int, len(used))
	rows := make([]UsageRow, 0, len(used))
	for _, u := range used {
		i, ok := at[u.Digest]
		if !ok {
			i = len(rows)
			at[u.Digest] = i
			rows = append(rows, UsageRow{Digest: u.Digest})
		}
		r := &rows[i]
		if !u.LastUsedAt.After(now) {
			r.LastUsedAt = max(r.LastUsedAt, u.LastUsedAt.UnixMicro())
		}
		r.Allowed = count(r.Allowed + count(u.Allowed))
		r.Denied = count(r.Denied + count(u.Denied))
	}
	return rows
}

func count(n int64) int64 { return min(max(n, 0), MaxCount) }
