package keyserver

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// call is one request to the key API.
type call struct {
	*httpapi.Call[caller]
	id string // of the path, valid; "" if the path has none
}

// page is the part of a list that the request is for.
func (c *call) page() keystore.Page {
	return keystore.Page{Limit: c.Query.Limit, After: c.Query.Cursor}
}

// withBody makes an operation of a function that takes the fields of its body.
func withBody[B any](do func(context.Context, *call, B) (httpapi.Response, error)) httpapi.Operation[caller] {
	return func(ctx context.Context, request *httpapi.Call[caller]) (httpapi.Response, error) {
		c := &call{request, request.Request.PathValue("id")}
		if c.id != "" && !validID(c.id) {
			return httpapi.Response{}, keystore.ErrNotFound
		}
		var body B
		if c.Request.Method != http.MethodGet && c.Request.Method != http.MethodHead {
			if err := httpapi.DecodeBody(c.Body, &body); err != nil {
				return httpapi.Response{}, err
			}
		}
		return do(ctx, c, body)
	}
}

// withoutBody makes an operation of a function that takes no fields.
func withoutBody(do func(context.Context, *call) (httpapi.Response, error)) httpapi.Operation[caller] {
	return withBody(func(ctx context.Context, c *call, _ struct{}) (httpapi.Response, error) { return do(ctx, c) })
}

// Query parameters of several routes.
var (
	waits = []string{httpapi.WaitParam}
	lists = []string{httpapi.LimitParam, httpapi.CursorParam}
	spans = []string{httpapi.LimitParam, httpapi.CursorParam, fromParam, untilParam}
)

// The rules of single fields.
const (
	maxLabel = 200
	maxID    = 64
	idRule   = "must be 1 to 64 of the characters A-Z a-z 0-9 _ -"
	newIDLen = 12 // base62 characters after the time: 71 bits
)

// newID begins with the time, in milliseconds to the base of 36: 8 digits until 2059. New ids are then at the end of
// the indexes over ids, however many there are.
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

// optionalID reads a query parameter that must be an id if it is there.
func (c *call) optionalID(name string) (string, error) {
	value, ok := c.Query.Text(name)
	if ok && !validID(value) {
		return "", httpapi.BadRequest(name, idRule)
	}
	return value, nil
}

// checkText checks a label or name. It must not be able to hide or reorder its own text when people read it.
func checkText(field, value string, most int) error {
	if value == "" {
		return httpapi.BadRequest(field, "is required")
	}
	if utf8.RuneCountInString(value) > most {
		return httpapi.BadRequest(field, "must have 1 to %d characters", most)
	}
	for _, r := range value {
		if unicode.IsControl(r) || unicode.In(r, unicode.Zl, unicode.Zp, unicode.Bidi_Control) {
			return httpapi.BadRequest(field, "must not have control characters, line separators or bidirectional controls")
		}
	}
	return nil
}

// checkExpiry returns the zero time for nil.
func checkExpiry(at *time.Time) (time.Time, error) {
	switch {
	case at == nil:
		return time.Time{}, nil
	case !at.After(time.Now()):
		return time.Time{}, httpapi.BadRequest("expires_at", "must be in the future")
	case at.UTC().Year() > 9999: // because of its offset; RFC 3339 cannot express it in UTC
		return time.Time{}, httpapi.BadRequest("expires_at", "must be before the year 10000 in UTC")
	}
	return at.UTC(), nil
}

// seconds reads an optional number of seconds.
func seconds(field string, given *int64, absent, least, most int64) (time.Duration, error) {
	n := absent
	if given != nil {
		n = *given
	}
	if n < least || n > most {
		return 0, httpapi.BadRequest(field, "must be a whole number of seconds from %d to %d", least, most)
	}
	return time.Duration(n) * time.Second, nil
}

// parseDigest does not repeat the value in its error, because it may be a plaintext.
func parseDigest(field, value string) (credential.Digest, error) {
	digest, err := credential.ParseDigest(value)
	if err != nil {
		return digest, httpapi.BadRequest(field, "must be 64 lower-case hexadecimal digits")
	}
	return digest, nil
}

// Grantor is who may grant a scope.
type Grantor uint8

// The grantors. The zero Grantor is the stricter one.
const (
	ByOperator Grantor = iota // operators only
	ByOwner                   // operators and owners
)

// Catalogue has all scopes that can be granted.
type Catalogue map[string]Grantor

// check rejects scopes that are not in the catalogue, and more scopes than a key may have.
func (cat Catalogue) check(field string, names ...string) error {
	if n := credential.NewScopes(names...).Len(); n > credential.MaxScopes {
		return httpapi.BadRequest(field, "must be at most %d different scopes", credential.MaxScopes)
	}
	for _, name := range names {
		if len(name) > credential.MaxScopeName {
			return httpapi.BadRequest(field, "must have at most %d characters each", credential.MaxScopeName)
		}
		if _, ok := cat[name]; !ok {
			// The message does not repeat the name, which may be a key.
			return httpapi.BadRequest(field, "must be of the catalogue: %s", strings.Join(slices.Sorted(maps.Keys(cat)), ", "))
		}
	}
	return nil
}

// checkOwner also rejects scopes that only operators grant.
func (cat Catalogue) checkOwner(field string, names ...string) error {
	if err := cat.check(field, names...); err != nil {
		return err
	}
	for _, name := range names {
		if cat[name] != ByOwner {
			return httpapi.Errorf(http.StatusForbidden, "Scope is granted by operators only: %s", name)
		}
	}
	return nil
}
