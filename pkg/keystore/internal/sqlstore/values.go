package sqlstore

import (
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// Cut returns t truncated to what the database stores: microseconds, in UTC.
func Cut(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return time.UnixMicro(t.UnixMicro()).UTC()
}

// RoundUp is Cut for times that must not be earlier on record.
func RoundUp(t time.Time) time.Time { return Cut(t.Add(time.Microsecond - 1)) }

// Stamp is a time in a column: microseconds since 1970 UTC, NULL for the zero Time.
type Stamp time.Time

// Scan implements sql.Scanner.
func (s *Stamp) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*s = Stamp{}
	case int64:
		*s = Stamp(time.UnixMicro(v).UTC())
	default:
		return fmt.Errorf("time is %T: must be an integer", src)
	}
	return nil
}

// Value implements driver.Valuer. It truncates to microseconds.
func (s Stamp) Value() (driver.Value, error) {
	if time.Time(s).IsZero() {
		return nil, nil
	}
	return time.Time(s).UnixMicro(), nil
}

// Digest is a credential.Digest in a column.
type Digest credential.Digest

// Scan implements sql.Scanner. NULL is the zero Digest.
func (d *Digest) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*d = Digest{}
		return nil
	case []byte:
		if copy(d[:], v) == len(d) && len(v) == len(d) {
			return nil
		}
	}
	return fmt.Errorf("digest is invalid: must be a blob of %d bytes", len(d)) // never the value
}

// Value implements driver.Valuer.
func (d Digest) Value() (driver.Value, error) { return d[:], nil }

// textOf returns the text of a column that is not NULL.
func textOf(src any, what string) (string, error) {
	v, ok := src.(string)
	if !ok {
		return "", fmt.Errorf("%s is %T: must be a text", what, src)
	}
	return v, nil
}

// Text is a string in a column, NULL for "".
type Text string

// Scan implements sql.Scanner.
func (t *Text) Scan(src any) error {
	if *t = ""; src == nil {
		return nil
	}
	v, err := textOf(src, "text")
	*t = Text(v)
	return err
}

// Value implements driver.Valuer.
func (t Text) Value() (driver.Value, error) {
	if t == "" {
		return nil, nil
	}
	return string(t), nil
}

// Scopes is a credential.Scopes in a column.
type Scopes credential.Scopes

// Scan implements sql.Scanner.
func (s *Scopes) Scan(src any) error {
	v, err := textOf(src, "scopes")
	*s = Scopes(credential.NewScopes(strings.Fields(v)...))
	return err
}

// Value implements driver.Valuer.
func (s Scopes) Value() (driver.Value, error) { return credential.Scopes(s).String(), nil }

// Detail is an event's fields in a column, as a JSON object.
type Detail map[string]string

// Scan implements sql.Scanner.
func (d *Detail) Scan(src any) error {
	v, err := textOf(src, "detail")
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(v), d)
}

// Value implements driver.Valuer.
func (d Detail) Value() (driver.Value, error) {
	if d == nil {
		return "{}", nil
	}
	v, err := json.Marshal(map[string]string(d))
	return string(v), err
}

// Grants are a sidecar's Grants in a column, as a JSON array of [covers, stale_ends_at].
type Grants []keystore.Grant

// Scan implements sql.Scanner.
func (g *Grants) Scan(src any) error {
	v, err := textOf(src, "grants")
	if err != nil {
		return err
	}
	var pairs [][2]int64
	err = json.Unmarshal([]byte(v), &pairs)
	*g = make(Grants, len(pairs))
	for i, p := range pairs {
		(*g)[i] = keystore.Grant{Covers: p[0], StaleEndsAt: time.UnixMicro(p[1]).UTC()}
	}
	return err
}

// Value implements driver.Valuer.
func (g Grants) Value() (driver.Value, error) {
	pairs := make([][2]int64, len(g))
	for i, grant := range g {
		pairs[i] = [2]int64{grant.Covers, grant.StaleEndsAt.UnixMicro()}
	}
	v, err := json.Marshal(pairs)
	return string(v), err
}
