package sqlstore

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// listing is one list with its filters. A cursor holds the position of the last entry returned: its seq, which no later
// insert moves, or the name of a sidecar. The position is signed together with the listing, so that a cursor is valid for
// that list only.
type listing struct {
	secret []byte
	name   string // the list and its filters, in an unambiguous form
}

const (
	positionLen  = 8
	signatureLen = 16
	maxPage      = 1000 // entries, as the contract says
)

var cursorEncoding = base64.RawURLEncoding.Strict()

func (s *Core) listing(list string, filters ...string) listing {
	return listing{secret: s.secret, name: fmt.Sprintf("%q", append([]string{list}, filters...))}
}

func (l listing) sign(position []byte) []byte {
	mac := hmac.New(sha256.New, l.secret)
	mac.Write(position)
	mac.Write([]byte(l.name))
	return mac.Sum(nil)[:signatureLen]
}

func (l listing) cursor(position []byte) string {
	return cursorEncoding.EncodeToString(append(position, l.sign(position)...))
}

// begin returns the seq after which the page begins, 0 for the first page.
func (l listing) begin(page keystore.Page) (int64, error) {
	position, err := l.position(page)
	switch {
	case err != nil || len(position) == 0:
		return 0, err
	case len(position) != positionLen:
		return 0, keystore.ErrCursor
	}
	return int64(binary.BigEndian.Uint64(position)), nil
}

// position returns the position after which the page begins, nil for the first page.
func (l listing) position(page keystore.Page) ([]byte, error) {
	if page.Limit < 1 || page.Limit > maxPage {
		return nil, fmt.Errorf("page limit %d is invalid: must be 1 to %d", page.Limit, maxPage)
	}
	if page.After == "" {
		return nil, nil
	}
	b, err := cursorEncoding.DecodeString(page.After)
	n := len(b) - signatureLen
	if err != nil || n < 1 ||
		len(page.After) != cursorEncoding.EncodedLen(len(b)) || // the decoder skips line breaks
		!hmac.Equal(b[n:], l.sign(b[:n])) {
		return nil, keystore.ErrCursor
	}
	return b[:n], nil
}

// list runs a query for at most limit+1 rows and returns the page and the cursor of the next page, "" if there is none.
func list[T any](ctx context.Context, q Querier, l listing, limit int,
	scan func(row Scanner, seq *int64) (T, error), query string, args ...any,
) (page []T, next string, err error) {
	var last, seq int64
	page, err = collect(ctx, q, func(row Scanner) (T, error) {
		last = seq
		return scan(row, &seq)
	}, query, args...)
	switch {
	case err != nil:
		return nil, "", err
	case len(page) > limit:
		return page[:limit], l.cursor(binary.BigEndian.AppendUint64(nil, uint64(last))), nil
	case page == nil:
		page = []T{}
	}
	return page, "", nil
}

func scanEvent(row Scanner, seq *int64) (keystore.Event, error) {
	var e keystore.Event
	err := row.Scan(seq, (*Stamp)(&e.At), &e.Actor, (*string)(&e.Action), &e.Account, (*Text)(&e.Key), (*Detail)(&e.Detail))
	return e, err
}

// Events implements keystore.Admin.
func (s *Core) Events(ctx context.Context, account, key string, page keystore.Page) ([]keystore.Event, string, error) {
	l := s.listing("events", account, key)
	before, err := l.begin(page)
	if err != nil {
		return nil, "", err
	}
	if before == 0 {
		before = math.MaxInt64
	}
	query, args := "SELECT seq, at, actor, action, account, key, detail FROM events WHERE seq < ?", []any{before}
	if account != "" {
		query, args = query+" AND account = ?", append(args, account)
	}
	if key != "" {
		query, args = query+" AND key = ?", append(args, key)
	}
	events, next, err := list(ctx, s.engine.Reader(), l, page.Limit, scanEvent,
		query+" ORDER BY seq DESC LIMIT ?", append(args, page.Limit+1)...)
	return events, next, Wrap(ctx, s.engine, "events", err)
}

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
