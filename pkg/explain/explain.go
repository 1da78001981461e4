// Package explain answers why a sidecar would decide a request as it would: Handler on the sidecar's
// admin listener, Client for keyctl.
//
// The client sends what the check depends on, and of the credential its kind, format and SHA-256. The
// plaintext stays with the client. The handler runs the steps of a check (extauthz.Checker.Explain), and
// reads the state of the cache before them, which the check may change a moment later. The answer has no
// digest. It costs one check, and one more look at the cache.
package explain

import (
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// Path is the path of the handler.
const Path = "/debug/explain"

// Request is a request to explain. Headers that are absent are "".
type Request struct {
	Method       string `json:"method"`
	Host         string `json:"host,omitempty"`
	Path         string `json:"path"` // with the query
	Origin       string `json:"origin,omitempty"`
	SecFetchSite string `json:"sec_fetch_site,omitempty"`
	// Credential is nil for a request without one.
	Credential *Credential `json:"credential,omitempty"`
	// Requirement is that of Envoy's matched route, nil if the route states none.
	Requirement *Requirement `json:"requirement,omitempty"`
}

// Credential is a credential without its plaintext.
type Credential struct {
	Kind   string `json:"kind"`             // key (as Bearer) or session (as cookie)
	Format string `json:"format"`           // one of the formats
	SHA256 string `json:"sha256,omitempty"` // 64 digits; absent if the format is Invalid
}

// Formats of a credential.
const (
	Invalid   = "invalid"   // not the syntax of its place: characters, length
	Key       = "key"       // of a key of ours, with a correct checksum
	Session   = "session"   // of a session of ours, with a correct checksum
	Malformed = "malformed" // a prefix of ours, with an incorrect length or checksum
	Foreign   = "foreign"   // no prefix of ours
)

var formats = map[credential.Shape]string{
	credential.KeyShape: Key, credential.SessionShape: Session, credential.Malformed: Malformed, credential.Foreign: Foreign,
}

// NewCredential describes a plaintext in the place of its kind, nil if it is none.
func NewCredential(kind credential.Kind, plaintext credential.Secret) *Credential {
	p := extauthz.Present(kind, plaintext)
	switch {
	case p.Kind == 0:
		return nil
	case !p.Valid:
		return &Credential{Kind: kind.String(), Format: Invalid}
	}
	return &Credential{Kind: kind.String(), Format: formats[p.Shape], SHA256: p.Digest.Hex()}
}

// Requirement is the requirement of an endpoint. A field that is nil is not stated.
type Requirement struct {
	Scope     *string `json:"scope,omitempty"` // names separated by spaces
	Principal *string `json:"principal,omitempty"`
}

// Explanation is the answer.
type Explanation struct {
	At       time.Time `json:"at"`
	Decision string    `json:"decision"` // allow or deny
	Reason   string    `json:"reason"`   // of the deny table, ok for an allow
	Shadow   bool      `json:"shadow"`   // Envoy gets an allow in any case
	Late     bool      `json:"late"`     // an allow that took too long, so 503
	// Credential repeats kind and format, nil without one.
	Credential *Presented `json:"credential"`
	// Cache is the state before the decision.
	Cache Cache `json:"cache"`
	// LookUp says how the facts were found.
	LookUp LookUp `json:"look_up"`
	// Record is nil if there is none, or if it was not looked up.
	Record      *Record           `json:"record"`
	Requirement StatedRequirement `json:"requirement"`
	Answer      Answer            `json:"answer"`
}

// Presented is a credential of a request.
type Presented struct {
	Kind   string `json:"kind"`
	Format string `json:"format"`
	Digest string `json:"digest,omitempty"` // its first 8 digits, as in logs
}

// Cache is the state of the cache.
type Cache struct {
	Mode        string  `json:"mode"` // cold, synced, degraded or ttl
	LeaseLeftMS int64   `json:"lease_left_ms"`
	StaleLeftMS int64   `json:"stale_left_ms"` // until nothing cached may answer
	KeyAPIDown  bool    `json:"key_api_down"`  // resolves fail, so none is sent
	PollsFail   bool    `json:"polls_fail"`
	Entry       *Cached `json:"entry"` // nil: not cached
}

// Cached is the entry of the credential.
type Cached struct {
	Pool        string `json:"pool"` // credentials (in force) or unknown
	AgeMS       int64  `json:"age_ms"`
	Freshness   string `json:"freshness"` // fresh, refresh or stale
	Invalidated bool   `json:"invalidated"`
	MayServe    bool   `json:"may_serve_stale"`
}

// LookUp is how the facts about the credential were found.
type LookUp struct {
	// Result is not_needed, hit, resolved, served_stale, rate_limited or failed.
	Result string `json:"result"`
	TookMS int64  `json:"took_ms"`
	Error  string `json:"error,omitempty"`
}

// Results of a look-up.
const (
	NotNeeded   = "not_needed"
	Hit         = "hit"
	Resolved    = "resolved"
	ServedStale = "served_stale"
	RateLimited = "rate_limited"
	Failed      = "failed"
)

// Record is the facts about the credential.
type Record struct {
	Kind         string     `json:"kind"`
	ID           string     `json:"id"`
	State        string     `json:"state"`
	Account      string     `json:"account"`
	AccountState string     `json:"account_state"`
	Scopes       []string   `json:"scopes"` // a session's include web_app.scopes
	ExpiresAt    *time.Time `json:"expires_at"`
}

// StatedRequirement is the requirement that applied.
type StatedRequirement struct {
	Source    string   `json:"source"` // route, endpoints or none
	Principal string   `json:"principal,omitempty"`
	Scopes    []string `json:"scopes"`
}

// Answer is what Envoy would get.
type Answer struct {
	Allow    bool              `json:"allow"`
	Status   int               `json:"status"`    // HTTP; 200: Envoy forwards the request
	GRPCCode int32             `json:"grpc_code"` // of the check
	Headers  map[string]string `json:"headers"`   // allow: for the upstream; deny: for the caller
	Body     string            `json:"body,omitempty"`
}
