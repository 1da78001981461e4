package sqlite

import (
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// cut returns t as the database keeps it: in microseconds, in UTC.
func cut(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return time.UnixMicro(t.UnixMicro()).UTC()
}

// roundUp is cut for moments that must not come too early on record.
func roundUp(t time.Time) time.Time { return cut(t.Add(time.Microsecond - 1)) }

// stamp is a time in a column: microseconds since 1970 UTC, NULL for the zero Time.
type stamp time.Time

// Scan implements sql.Scanner.
func (s *stamp) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*s = stamp{}
	case int64:
		*s = stamp(time.UnixMicro(v).UTC())
	default:
		return fmt.Errorf("a time is an integer, not %T", src)
	}
	return nil
}

// Value implements driver.Valuer; it cuts off what is below a microsecond.
func (s stamp) Value() (driver.Value, error) {
	if time.Time(s).IsZero() {
		return nil, nil
	}
	return time.Time(s).UnixMicro(), nil
}

// digest is a credential.Digest in a column.
type digest credential.Digest

// Scan implements sql.Scanner. NULL is the zero Digest.
func (d *digest) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*d = digest{}
		return nil
	case []byte:
		if copy(d[:], v) == len(d) && len(v) == len(d) {
			return nil
		}
	}
	return fmt.Errorf("a digest is a blob of %d bytes", len(d)) // never the value
}

// Value implements driver.Valuer.
func (d digest) Value() (driver.Value, error) { return d[:], nil }

// text is a string in a column, NULL for "".
type text string

// Scan implements sql.Scanner.
func (t *text) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*t = ""
	case string:
		*t = text(v)
	default:
		return fmt.Errorf("a text is a string, not %T", src)
	}
	return nil
}

// Value implements driver.Valuer.
func (t text) Value() (driver.Value, error) {
	if t == "" {
		return nil, nil
	}
	return string(t), nil
}

// scopes is a credential.Scopes in a column.
type scopes credential.Scopes

// Scan implements sql.Scanner.
func (s *scopes) Scan(src any) error {
	switch v := src.(type) {
	case string:
		*s = scopes(credential.NewScopes(strings.Fields(v)...))
	default:
		return fmt.Errorf("scopes are a string, not %T", src)
	}
	return nil
}

// Value implements driver.Valuer.
func (s scopes) Value() (driver.Value, error) { return credential.Scopes(s).String(), nil }

// detail is an event's fields in a column, as a JSON object.
type detail map[string]string

// Scan implements sql.Scanner.
func (d *detail) Scan(src any) error {
	v, ok := src.(string)
	if !ok {
		return fmt.Errorf("a detail is a string, not %T", src)
	}
	return json.Unmarshal([]byte(v), d)
}

// Value implements driver.Valuer.
func (d detail) Value() (driver.Value, error) {
	if d == nil {
		return "{}", nil
	}
	v, err := json.Marshal(map[string]string(d))
	return string(v), err
}

// grants are a sidecar's grants in a column, as a JSON array of [covers, stale_ends_at].
type grants []keystore.Grant

// Scan implements sql.Scanner.
func (g *grants) Scan(src any) error {
	v, ok := src.(string)
	if !ok {
		return fmt.Errorf("grants are a string, not %T", src)
	}
	var pairs [][2]int64
	err := json.Unmarshal([]byte(v), &pairs)
	*g = make(grants, len(pairs))
	for i, p := range pairs {
		(*g)[i] = keystore.Grant{Covers: p[0], StaleEndsAt: time.UnixMicro(p[1]).UTC()}
	}
	return err
}

// Value implements driver.Valuer.
func (g grants) Value() (driver.Value, error) {
	pairs := make([][2]int64, len(g))
	for i, one := range g {
		pairs[i] = [2]int64{one.Covers, one.StaleEndsAt.UnixMicro()}
	}
	v, err := json.Marshal(pairs)
	return string(v), err
}
