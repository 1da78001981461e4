package keyserver

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

const (
	waitParam   = "wait_ms"
	limitParam  = "limit"
	cursorParam = "cursor"
	chainParam  = "chain"

	maxWaitMS    = 60000
	maxLimit     = 1000
	defaultLimit = 100
	maxCursor    = 1024 // bytes; far more than any store's
)

// readQuery reads the query, in which each parameter must be one that the route
// takes, once: a misspelt filter must not answer with more than was asked for.
func (c *call) readQuery(allowed []string) error {
	values, err := url.ParseQuery(c.request.URL.RawQuery)
	if err != nil {
		return badRequest("query", "is not well formed")
	}
	for name, given := range values {
		if !slices.Contains(allowed, name) {
			return badRequest(shorten(name), "is not a query parameter of this request")
		}
		if len(given) > 1 {
			return badRequest(name, "is there more than once")
		}
	}
	c.query = values
	ms, err := c.number(waitParam, 0, 0, maxWaitMS)
	if err != nil {
		return err
	}
	c.wait = time.Duration(ms) * time.Millisecond
	limit, err := c.number(limitParam, defaultLimit, 1, maxLimit)
	if err != nil {
		return err
	}
	c.page = keystore.Page{Limit: int(limit), After: values.Get(cursorParam)}
	if len(c.page.After) > maxCursor {
		return keystore.ErrCursor
	}
	return nil
}

// number reads a parameter of decimal digits.
func (c *call) number(name string, absent, least, most int64) (int64, error) {
	if !c.query.Has(name) {
		return absent, nil
	}
	n, ok := digits(c.query.Get(name))
	if !ok || n < least || n > most {
		return 0, badRequest(name, "must be a whole number from %d to %d", least, most)
	}
	return n, nil
}

// digits reads a number without sign; one that is too large for an int64 is the
// largest.
func digits(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, _ := strconv.ParseInt(s, 10, 64) // on overflow it is the largest, as wanted
	return n, true
}

// flag reads an optional parameter that is true or false.
func (c *call) flag(name string) (bool, error) {
	if !c.query.Has(name) {
		return false, nil
	}
	value := c.query.Get(name)
	if value != "true" && value != "false" {
		return false, badRequest(name, "must be true or false")
	}
	return value == "true", nil
}

// filter reads an optional parameter that must be an id.
func (c *call) filter(name string) (string, error) {
	value := c.query.Get(name)
	if c.query.Has(name) && !validID(value) {
		return "", badRequest(name, idRule)
	}
	return value, nil
}

// moment reads an optional time, the zero one if it is not there.
func (c *call) moment(name string) (time.Time, error) {
	if !c.query.Has(name) {
		return time.Time{}, nil
	}
	at, err := parseTime(c.query.Get(name))
	if err != nil {
		return time.Time{}, badRequest(name, "must be a time as in RFC 3339")
	}
	return at.UTC(), nil
}
