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

// Request is one request to the operator API. The zero Request is an error.
type Request struct {
	method  string
	path    []string // segments after /v1, not escaped
	query   url.Values
	body    any      // nil for none
	answers []string // required fields of the answer
	wait    time.Duration
}

// Waiting returns the request with wait_ms: the API responds when the change is effective or
// after d, which is limited to 0 to MaxWait. The API accepts it for changes and for Revision.
func (r Request) Waiting(d time.Duration) Request {
	r.wait = min(max(d, 0), MaxWait)
	r.query = url.Values{"wait_ms": {strconv.FormatInt(r.wait.Milliseconds(), 10)}}
	return r
}

// mutates reports whether the request changes something.
func (r Request) mutates() bool { return r.method != http.MethodGet }

func get(answer string, path ...string) Request {
	return Request{method: http.MethodGet, path: path, answers: []string{answer}}
}

func post(body any, answers []string, path ...string) Request {
	return Request{method: http.MethodPost, path: path, body: body, answers: answers}
}

func put(path ...string) Request {
	return Request{method: http.MethodPut, path: path, answers: []string{"key", "change"}}
}

func del(answers []string, path ...string) Request {
	return Request{method: http.MethodDelete, path: path, answers: answers}
}

// seconds returns nil for 0, which leaves the field out.
func seconds(d time.Duration) *int64 {
	if d == 0 {
		return nil
	}
	s := int64(d / time.Second)
	return &s
}

// CreateAccount creates an account. If id is "", the API chooses one.
func CreateAccount(id, name string) Request {
	body := struct {
		ID   string `json:"id,omitempty"`
		Name string `json:"name"`
	}{id, name}
	return post(body, []string{"account"}, "accounts")
}

// GetAccount reads one account.
func GetAccount(id string) Request { return get("account", "accounts", id) }

// TerminateAccount disables all credentials of an account until it is reinstated.
func TerminateAccount(id string) Request {
	return post(nil, []string{"account", "change"}, "accounts", id, "terminate")
}

// ReinstateAccount reverts TerminateAccount.
func ReinstateAccount(id string) Request {
	return post(nil, []string{"account", "change"}, "accounts", id, "reinstate")
}

// NewKey holds the properties of a key to mint or import.
type NewKey struct {
	Label     string
	Scopes    []string
	ExpiresAt time.Time // zero: never
}

type keyBody struct {
	SHA256    string    `json:"sha256,omitempty"`
	Label     string    `json:"label"`
	Scopes    []string  `json:"scopes,omitempty"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
}

// MintKey mints a key. Answer.Plaintext is the only time that it is shown.
func MintKey(account string, k NewKey) Request {
	return post(keyBody{"", k.Label, k.Scopes, k.ExpiresAt.UTC()}, []string{"key", "plaintext", "change"}, "accounts", account, "keys")
}

// ImportKey adds a key that exists elsewhere, by the SHA-256 of its plaintext (64 hexadecimal digits).
func ImportKey(account, sha256 string, k NewKey) Request {
	return post(keyBody{sha256, k.Label, k.Scopes, k.ExpiresAt.UTC()}, []string{"key", "change"}, "accounts", account, "keys", "import")
}

// GetKey reads one key.
func GetKey(id string) Request { return get("key", "keys", id) }

// RevokeKey revokes a key permanently.
func RevokeKey(id string) Request {
	return post(nil, []string{"key", "change"}, "keys", id, "revoke")
}

// RevokeChain revokes a key and every key of its chain permanently: its predecessors and successors by rolls.
func RevokeChain(id string) Request {
	body := struct {
		Chain bool `json:"chain"`
	}{true}
	return post(body, []string{"key", "revoked", "change"}, "keys", id, "revoke")
}

// RollKey replaces a key by a successor (Answer.Key and Answer.Plaintext). The old one
// (Answer.Replaced) is revoked, or expires after the grace, which is in whole seconds.
func RollKey(id string, grace time.Duration) Request {
	body := struct {
		GraceSeconds *int64 `json:"grace_seconds,omitempty"`
	}{seconds(grace)}
	return post(body, []string{"key", "plaintext", "replaced", "change"}, "keys", id, "roll")
}

// GrantScope adds one scope to a key.
func GrantScope(id, scope string) Request {
	return put("keys", id, "scopes", scope)
}

// UngrantScope removes one scope from a key.
func UngrantScope(id, scope string) Request {
	return del([]string{"key", "change"}, "keys", id, "scopes", scope)
}

// MintSession creates a session. Answer.Token is the only time that its token is shown. The ttl
// is in whole seconds; 0 means the API's default.
func MintSession(account string, ttl time.Duration) Request {
	body := struct {
		TTLSeconds *int64 `json:"ttl_seconds,omitempty"`
	}{seconds(ttl)}
	return post(body, []string{"session", "token"}, "accounts", account, "sessions")
}

// EndSession ends a session permanently.
func EndSession(id string) Request {
	return del([]string{"session", "change"}, "sessions", id)
}

// ForgetSidecar removes a sidecar that is known to be gone: no change waits for it any longer, and
// the API rejects later polls under its name.
func ForgetSidecar(name string) Request {
	return del([]string{"sidecar"}, "sidecars", name)
}

// Revision reads the state of a change.
func Revision(revision int64) Request {
	return get("change", "revisions", strconv.FormatInt(revision, 10))
}
