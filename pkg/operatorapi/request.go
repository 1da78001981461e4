package operatorapi

import (
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// MaxWait is the longest time that one request may wait for its change to become
// effective.
const MaxWait = time.Minute

// Request is one call of the operator API. The zero Request asks for nothing and
// is refused.
type Request struct {
	method  string
	path    []string // segments behind /v1, not escaped
	query   url.Values
	body    any      // nil: none
	answers []string // fields without which an answer is none
	wait    time.Duration
}

// Waiting returns the request with wait_ms: its answer comes when the change is
// effective or the time is up. Anything outside 0 to MaxWait is brought inside.
// It is for requests that change something, and for Revision.
func (r Request) Waiting(d time.Duration) Request {
	r.wait = min(max(d, 0), MaxWait)
	r.query = url.Values{"wait_ms": {strconv.FormatInt(r.wait.Milliseconds(), 10)}}
	return r
}

// mutates tells whether the request asks for a change.
func (r Request) mutates() bool { return r.method != http.MethodGet }

func get(answer string, path ...string) Request {
	return Request{method: http.MethodGet, path: path, answers: []string{answer}}
}

func post(body any, answers []string, path ...string) Request {
	return Request{method: http.MethodPost, path: path, body: body, answers: answers}
}

// Times travel as RFC 3339 in UTC; a zero time is left out.
func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func seconds(d time.Duration) *int64 {
	if d == 0 {
		return nil
	}
	s := int64(d / time.Second)
	return &s
}

// CreateAccount asks for a new account; with id "" the API chooses one.
func CreateAccount(id, name string) Request {
	body := struct {
		ID   string `json:"id,omitempty"`
		Name string `json:"name"`
	}{id, name}
	return post(body, []string{"account"}, "accounts")
}

// GetAccount asks for one account.
func GetAccount(id string) Request { return get("account", "accounts", id) }

// TerminateAccount puts all credentials of an account out of force.
func TerminateAccount(id string) Request {
	return post(nil, []string{"account", "change"}, "accounts", id, "terminate")
}

// ReinstateAccount takes TerminateAccount back.
func ReinstateAccount(id string) Request {
	return post(nil, []string{"account", "change"}, "accounts", id, "reinstate")
}

// NewKey is what a key is minted or imported with.
type NewKey struct {
	Label     string
	Scopes    []string
	ExpiresAt time.Time // zero: never
}

type keyBody struct {
	SHA256    string     `json:"sha256,omitempty"`
	Label     string     `json:"label"`
	Scopes    []string   `json:"scopes,omitempty"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
}

// MintKey asks for a new key; Answer.Plaintext is the only time that it is shown.
func MintKey(account string, k NewKey) Request {
	body := keyBody{Label: k.Label, Scopes: k.Scopes, ExpiresAt: optional(k.ExpiresAt)}
	return post(body, []string{"key", "plaintext", "change"}, "accounts", account, "keys")
}

// ImportKey takes up a key that exists elsewhere, by the SHA-256 of its plaintext
// (64 hexadecimal digits).
func ImportKey(account, sha256 string, k NewKey) Request {
	body := keyBody{SHA256: sha256, Label: k.Label, Scopes: k.Scopes, ExpiresAt: optional(k.ExpiresAt)}
	return post(body, []string{"key", "change"}, "accounts", account, "keys", "import")
}

// GetKey asks for one key.
func GetKey(id string) Request { return get("key", "keys", id) }

// RevokeKey puts a key out of force for good.
func RevokeKey(id string) Request {
	return post(nil, []string{"key", "change"}, "keys", id, "revoke")
}

// RevokeChain puts a key and every key of its chain out of force for good: its successors after
// rolls, and the keys before it.
func RevokeChain(id string) Request {
	body := struct {
		Chain bool `json:"chain"`
	}{true}
	return post(body, []string{"key", "revoked", "change"}, "keys", id, "revoke")
}

// RollKey replaces a key by a successor (Answer.Key and Answer.Plaintext); the old
// one (Answer.Replaced) is revoked, or expires after the grace, which is in whole seconds.
func RollKey(id string, grace time.Duration) Request {
	body := struct {
		GraceSeconds *int64 `json:"grace_seconds,omitempty"`
	}{seconds(grace)}
	return post(body, []string{"key", "plaintext", "replaced", "change"}, "keys", id, "roll")
}

// GrantScope gives a key one scope.
func GrantScope(id, scope string) Request {
	return Request{method: http.MethodPut, path: []string{"keys", id, "scopes", scope}, answers: []string{"key", "change"}}
}

// UngrantScope takes one scope from a key.
func UngrantScope(id, scope string) Request {
	return Request{method: http.MethodDelete, path: []string{"keys", id, "scopes", scope}, answers: []string{"key", "change"}}
}

// MintSession asks for a new session; Answer.Token is the only time that its token is
// shown. The ttl is in whole seconds; 0 is the API's default.
func MintSession(account string, ttl time.Duration) Request {
	body := struct {
		TTLSeconds *int64 `json:"ttl_seconds,omitempty"`
	}{seconds(ttl)}
	return post(body, []string{"session", "token"}, "accounts", account, "sessions")
}

// EndSession ends a session for good.
func EndSession(id string) Request {
	return Request{method: http.MethodDelete, path: []string{"sessions", id}, answers: []string{"session", "change"}}
}

// ForgetSidecar is for a sidecar known to be gone: no change waits for it any longer, and the API
// refuses a later poll under its name.
func ForgetSidecar(name string) Request {
	return Request{method: http.MethodDelete, path: []string{"sidecars", name}, answers: []string{"sidecar"}}
}

// Revision asks how far a change has come.
func Revision(revision int64) Request {
	return get("change", "revisions", strconv.FormatInt(revision, 10))
}
