package httpapi

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Parameters that Query reads.
const (
	WaitParam   = "wait_ms"
	LimitParam  = "limit"
	CursorParam = "cursor"
)

const (
	maxWaitMS    = 60000
	maxLimit     = 1000
	defaultLimit = 100
	maxCursor    = 1024 // bytes, far more than a store's cursor has
	shownName    = 64   // bytes of an unknown parameter's name that the message repeats
)

// Query is the query of a request.
type Query struct {
	Wait   time.Duration // how long the response may wait for its change to become effective
	Limit  int           // length of a page
	Cursor string        // end of the previous page, "" for the first page
	values url.Values
}

// readQuery rejects a parameter that is not allowed or is given twice. A misspelt filter must not return
// more than was requested.
func readQuery(r *http.Request, allowed []string) (Query, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return Query{}, BadRequest("query", "is not well formed")
	}
	for name, given := range values {
		if !slices.Contains(allowed, name) {
			if len(name) > shownName {
				name = strings.ToValidUTF8(name[:shownName], "") + "…"
			}
			return Query{}, BadRequest(name, "is not a query parameter of this request")
		}
		if len(given) > 1 {
			return Query{}, BadRequest(name, "is given more than once")
		}
	}
	q := Query{Cursor: values.Get(CursorParam), values: values}
	wait, err := q.number(WaitParam, 0, 0, maxWaitMS)
	if err != nil {
		return Query{}, err
	}
	limit, err := q.number(LimitParam, defaultLimit, 1, maxLimit)
	if err != nil {
		return Query{}, err
	}
	if len(q.Cursor) > maxCursor {
		return Query{}, ErrCursor
	}
	q.Wait, q.Limit = time.Duration(wait)*time.Millisecond, int(limit)
	return q, nil
}

// ErrCursor rejects a cursor that is not from the same list.
var ErrCursor = BadRequest(CursorParam, "is not one of this list")

// number reads an optional parameter of decimal digits.
func (q Query) number(name string, absent, least, most int64) (int64, error) {
	if !q.values.Has(name) {
		return absent, nil
	}
	n, ok := ParseDigits(q.values.Get(name))
	if !ok || n < least || n > most {
		return 0, BadRequest(name, "must be a whole number from %d to %d", least, most)
	}
	return n, nil
}

// ParseDigits parses a number without sign. One that is too large for an int64 is the largest int64.
func ParseDigits(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, _ := strconv.ParseInt(s, 10, 64) // on overflow it is the largest
	return n, true
}

// Text returns a parameter and whether it is there.
func (q Query) Text(name string) (value string, ok bool) {
	return q.values.Get(name), q.values.Has(name)
}

// Flag reads an optional parameter that is true or false.
func (q Query) Flag(name string) (bool, error) {
	value, ok := q.Text(name)
	if ok && value != "true" && value != "false" {
		return false, BadRequest(name, "must be true or false")
	}
	return value == "true", nil
}

// Time reads an optional time, the zero time if it is absent.
func (q Query) Time(name string) (time.Time, error) {
	value, ok := q.Text(name)
	if !ok {
		return time.Time{}, nil
	}
	at, err := ParseTime(value)
	if err != nil {
		return time.Time{}, BadRequest(name, "must be a time as in RFC 3339")
	}
	return at.UTC(), nil
}
