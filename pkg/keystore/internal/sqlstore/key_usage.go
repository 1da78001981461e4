package sqlstore

import (
	"context"
	"math"
	"strconv"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// MaxCount bounds the count of one key in one hour: JSON numbers are exact up to it.
const MaxCount = 1 << 53

// UsageRow is one key's use. LastUsedAt is in microseconds since 1970, 0 for none.
type UsageRow struct {
	Digest                      credential.Digest
	LastUsedAt, Allowed, Denied int64
}

// MergeUsage returns one row for each digest. It ignores times after now.
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

func scanHour(row Scanner, hour *int64) (keystore.UsageHour, error) {
	var u keystore.UsageHour
	err := row.Scan(hour, &u.Allowed, &u.Denied)
	u.Hour = time.UnixMicro(*hour).UTC()
	return u, err
}

// KeyUsage implements keystore.Admin. The position of an hour in the list is its first microsecond.
func (s *Core) KeyUsage(ctx context.Context, span keystore.UsageSpan, page keystore.Page) (hours []keystore.UsageHour, next string, err error) {
	from, until := int64(math.MinInt64), int64(math.MaxInt64)
	if !span.From.IsZero() {
		from = RoundUp(span.From).UnixMicro()
	}
	if !span.Until.IsZero() {
		until = RoundUp(span.Until).UnixMicro()
	}
	l := s.listing("usage", span.Key, strconv.FormatInt(from, 10), strconv.FormatInt(until, 10))
	before, err := l.begin(page)
	if err != nil {
		return nil, "", err
	}
	if page.After == "" {
		before = until
	}
	err = Read(ctx, s.engine, "key usage", func(q Querier) error {
		if _, err := keyOf(ctx, q, span.Key, span.Account); err != nil {
			return err
		}
		hours, next, err = list(ctx, q, l, page.Limit, scanHour, `SELECT hour, allowed, denied FROM usage
			WHERE key = (SELECT seq FROM keys WHERE id = ?) AND hour >= ? AND hour < ? ORDER BY hour DESC LIMIT ?`,
			span.Key, from, before, page.Limit+1)
		return err
	})
	return hours, next, err
}
