package keyserver

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// The rules of single fields.

const (
	maxLabel = 200
	maxID    = 64
	idRule   = "must be 1 to 64 of the characters A-Z a-z 0-9 _ -"

	newIDLen = 12 // base62 characters behind the time: 71 bits
)

// newID begins with the time, in milliseconds to the base of 36: 8 digits until 2059. What is new
// is then at the end of the indexes over ids, however many there are.
func newID(prefix string) string {
	return prefix + strconv.FormatInt(time.Now().UnixMilli(), 36) + credential.RandomBase62(newIDLen)
}

func validID(s string) bool {
	if s == "" || len(s) > maxID {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// id returns the object's id from the path. What can be no id is not looked for.
func (c *call) id() (string, error) {
	id := c.path("id")
	if !validID(id) {
		return "", keystore.ErrNotFound
	}
	return id, nil
}

// idAlone is id for a request that takes no fields.
func (c *call) idAlone() (string, error) {
	if err := decode(c.body, &struct{}{}); err != nil {
		return "", err
	}
	return c.id()
}

// nth names a field of a list's element.
func nth(list string, i int, field string) string { return fmt.Sprintf("%s[%d]%s", list, i, field) }

// checkText holds a label or name to its rule: what people read must not be able to
// hide or reorder its own text.
func checkText(field string, value *string, most int) error {
	if value == nil {
		return badRequest(field, "is required")
	}
	if n := utf8.RuneCountInString(*value); n < 1 || n > most {
		return badRequest(field, "must have 1 to %d characters", most)
	}
	for _, r := range *value {
		if unicode.IsControl(r) || unicode.In(r, unicode.Zl, unicode.Zp, unicode.Bidi_Control) {
			return badRequest(field, "may have no control characters, line separators or bidirectional controls")
		}
	}
	return nil
}

func shorten(name string) string {
	if len(name) > maxID {
		return strings.ToValidUTF8(name[:maxID], "") + "…"
	}
	return name
}

// checkExpiry returns the zero time for nil.
func checkExpiry(at *time.Time) (time.Time, error) {
	switch {
	case at == nil:
		return time.Time{}, nil
	case !at.After(time.Now()):
		return time.Time{}, badRequest("expires_at", "must be in the future")
	case at.UTC().Year() > 9999: // by its offset: what could be written no more
		return time.Time{}, badRequest("expires_at", "must be before the year 10000 in UTC")
	}
	return at.UTC(), nil
}

// seconds reads an optional number of seconds between bounds.
func seconds(field string, given *int64, absent, least, most int64) (time.Duration, error) {
	n := absent
	if given != nil {
		n = *given
	}
	if n < least || n > most {
		return 0, badRequest(field, "must be a whole number of seconds from %d to %d", least, most)
	}
	return time.Duration(n) * time.Second, nil
}

// Grantor is who may grant a scope.
type Grantor uint8

// The grantors. The zero Grantor is the stricter one.
const (
	ByOperator Grantor = iota // operators only
	ByOwner                   // owners too
)

// Catalogue is the scopes that can be granted at all.
type Catalogue map[string]Grantor

// check refuses scopes that are not in the catalogue, and more of them than a key carries;
// field is where they were given.
func (cat Catalogue) check(field string, names ...string) error {
	if n := credential.NewScopes(names...).Len(); n > credential.MaxScopes {
		return badRequest(field, "must be at most %d different scopes", credential.MaxScopes)
	}
	for _, name := range names {
		if len(name) > credential.MaxScopeName {
			return badRequest(field, "must have at most %d characters each", credential.MaxScopeName)
		}
		if _, ok := cat[name]; !ok {
			// The name is not repeated: it may be anything, a key too.
			return badRequest(field, "must be of the catalogue: %s", cat)
		}
	}
	return nil
}

// checkOwner refuses also what only operators grant.
func (cat Catalogue) checkOwner(field string, names ...string) error {
	if err := cat.check(field, names...); err != nil {
		return err
	}
	for _, name := range names {
		if cat[name] != ByOwner {
			return &problem{status: http.StatusForbidden, message: "Scope is granted by operators only: " + name}
		}
	}
	return nil
}

// String lists the scopes in order.
func (cat Catalogue) String() string {
	return strings.Join(slices.Sorted(maps.Keys(cat)), ", ")
}
