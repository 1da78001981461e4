package sqlstore

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// listing is one list with its filters. The position in a cursor is the seq of
// the last row told, which no later insert moves, or of sidecars the name; it is signed together with the
// listing, so that a cursor serves the list that it came from and no other.
type listing struct {
	secret []byte
	name   string // the list and its filters, in a form that cannot be ambiguous
}

const (
	positionLen  = 8
	signatureLen = 16
	maxPage      = 1000
)

var cursorText = base64.RawURLEncoding.Strict()

func (s *Core) listing(list string, filters ...string) listing {
	return listing{secret: s.secret, name: fmt.Sprintf("%q", append([]string{list}, filters...))}
}

func (l listing) sign(position []byte) []byte {
	mac := hmac.New(sha256.New, l.secret)
	mac.Write(position)
	mac.Write([]byte(l.name))
	return mac.Sum(nil)[:signatureLen]
}

func (l listing) cursor(position int64) string {
	return l.cursorAt(binary.BigEndian.AppendUint64(nil, uint64(position)))
}

func (l listing) cursorAt(position []byte) string {
	return cursorText.EncodeToString(append(position, l.sign(position)...))
}

// begin returns the position after which the page begins, 0 for the first page.
func (l listing) begin(page keystore.Page) (int64, error) {
	position, err := l.beginAt(page)
	switch {
	case err != nil || len(position) == 0:
		return 0, err
	case len(position) != positionLen:
		return 0, keystore.ErrCursor
	}
	return int64(binary.BigEndian.Uint64(position)), nil
}

// beginAt returns the position after which the page begins, none for the first page.
func (l listing) beginAt(page keystore.Page) (position []byte, err error) {
	if page.Limit < 1 || page.Limit > maxPage {
		return nil, fmt.Errorf("a page has 1 to %d entries, not %d", maxPage, page.Limit)
	}
	if page.After == "" {
		return nil, nil
	}
	b, err := cursorText.DecodeString(page.After)
	n := len(b) - signatureLen
	if err != nil || n < 1 ||
		len(page.After) != cursorText.EncodedLen(len(b)) || // the decoder skips line breaks
		!hmac.Equal(b[n:], l.sign(b[:n])) {
		return nil, keystore.ErrCursor
	}
	return b[:n], nil
}

// Scanner is one row, of a query for one or for many.
type Scanner interface{ Scan(dest ...any) error }

// list runs a query that yields at most limit+1 rows, each with its seq, and
// returns the page and the cursor of the next, "" if there is none.
func list[T any](ctx context.Context, q Querier, l listing, limit int,
	scan func(row Scanner, seq *int64) (T, error), query string, args ...any,
) (page []T, next string, err error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = rows.Close() }()
	page = []T{}
	for last := int64(0); rows.Next(); {
		if len(page) == limit {
			return page, l.cursor(last), nil
		}
		v, err := scan(rows, &last)
		if err != nil {
			return nil, "", err
		}
		page = append(page, v)
	}
	if err := rows.Err(); err != nil {
		return nil, "", err
	}
	return page, "", nil
}
