// Package policy decides checks: Decide makes a Decision from the facts about a credential, the
// Requirement of the endpoint and the time. It is pure: no I/O, no clock, no Envoy, gRPC or cache.
// The rows of the deny table are evaluated in order, and the first that applies is the Decision.
// Endpoints is a table of requirements by method, host and path. All zero values deny.
//
// A decision allocates nothing and compares each required scope with the scopes held, of which
// there are a few. A look-up in Endpoints costs one pass over the path, which allocates only if it
// has escapes, and one map access for each segment.
//
// A new deny reason is a constant (Reason) and a row in the table.
package policy

import (
	"slices"
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// Principal says whether keys, sessions or both may use an endpoint. The zero Principal is none.
type Principal uint8

// The principals.
const (
	NoPrincipal Principal = iota
	Any
	KeyOnly
	SessionOnly
)

// ParsePrincipal reads "any", "key" or "session". Anything else is NoPrincipal and false.
func ParsePrincipal(s string) (Principal, bool) {
	switch s {
	case "any":
		return Any, true
	case "key":
		return KeyOnly, true
	case "session":
		return SessionOnly, true
	}
	return NoPrincipal, false
}

// Requirement is an endpoint's condition for a credential. No credential meets the zero Requirement.
type Requirement struct {
	Principal Principal
	scopes    []string // all of them required, in the order in which the endpoint names them
}

// NewRequirement makes a requirement of a principal and the space-separated names of the scopes,
// all of which are required. A name that is not a scope (credential.ValidScope) makes it the zero
// Requirement.
func NewRequirement(p Principal, scopes string) Requirement {
	names := strings.Fields(scopes)
	for _, name := range names {
		if !credential.ValidScope(name) {
			return Requirement{}
		}
	}
	return Requirement{Principal: p, scopes: names}
}

// Scopes returns the required scopes in the order in which the endpoint names them.
func (r Requirement) Scopes() []string { return slices.Clone(r.scopes) }

// Decide makes the decision on one presented credential. Kind is how it was presented (as a Bearer
// key or in the session cookie); a record of the other kind counts as not found. Found reports
// whether the key API has a record. A record in any state but active and revoked
// is Unavailable.
func Decide(kind credential.Kind, rec credential.Record, found bool, req Requirement, now time.Time) Decision {
	if !found || rec.Kind != kind {
		return Deny(NotFound(kind))
	}
	d := Decision{
		AccountID:    rec.Account.ID,
		CredentialID: rec.ID,
		Kind:         kind,
		Scopes:       rec.Scopes,
		required:     req.scopes,
	}
	if d.Reason = inForce(rec, now); d.Reason == OK {
		d.Reason, d.missing = req.metBy(kind, d.Scopes)
	}
	return d
}

// NotFound returns the reason for a credential without a record.
func NotFound(kind credential.Kind) Reason {
	switch kind {
	case credential.Key:
		return KeyUnknown
	case credential.Session:
		return SessionExpired
	}
	return Unavailable
}

// inForce returns OK, or why the credential is not in force at any endpoint.
func inForce(rec credential.Record, now time.Time) Reason {
	expired := !rec.ExpiresAt.IsZero() && !now.Before(rec.ExpiresAt)
	switch {
	case rec.State != credential.Active && rec.State != credential.Revoked:
		return Unavailable
	case rec.Kind == credential.Session && (rec.State == credential.Revoked || expired):
		return SessionExpired
	case rec.State == credential.Revoked:
		return KeyRevoked
	case expired:
		return KeyExpired
	}
	switch rec.Account.State {
	case credential.Active:
		return OK
	case credential.Terminated:
		return AccountTerminated
	default:
		return Unavailable
	}
}

// metBy returns OK, or why a credential in force does not meet the requirement, and with
// ScopeMissing the first missing scope.
func (r Requirement) metBy(kind credential.Kind, held credential.Scopes) (Reason, string) {
	switch {
	case r.Principal != Any && r.Principal != KeyOnly && r.Principal != SessionOnly:
		return NoPolicy, ""
	case r.Principal == SessionOnly && kind != credential.Session:
		return SessionRequired, ""
	case r.Principal == KeyOnly && kind != credential.Key:
		return KeyRequired, ""
	}
	for _, name := range r.scopes {
		if !held.Has(name) {
			return ScopeMissing, name
		}
	}
	return OK, ""
}

// Decision is the outcome of one check. The zero Decision denies.
type Decision struct {
	Reason Reason

	// The identity, as far as it is known; zero without a record.
	AccountID, CredentialID string
	Kind                    credential.Kind
	Scopes                  credential.Scopes // all that the credential has

	missing  string   // with ScopeMissing: the first missing scope
	required []string // all that the endpoint names
}

// Deny returns a denial without an identity. Deny(OK) is Unavailable: only Decide allows.
func Deny(r Reason) Decision {
	if r == OK {
		r = Unavailable
	}
	return Decision{Reason: r}
}

// Withdraw returns the decision with an allow replaced by Unavailable, for an answer that is too
// late to rely on the facts. A denial stays as it is.
func (d Decision) Withdraw() Decision {
	if d.Allowed() {
		d.Reason = Unavailable
	}
	return d
}

// Allowed reports whether the request is allowed.
func (d Decision) Allowed() bool { return d.Reason == OK }

// Status returns the HTTP status of the answer, 200 for an allow.
func (d Decision) Status() int { return d.Reason.row().status }

// Code returns the gRPC status (google.rpc.Code) of the answer: 0 if and only if it is an allow.
func (d Decision) Code() int32 { return d.Reason.row().code }

// ErrorName returns the error of a denial's body, such as "FORBIDDEN".
func (d Decision) ErrorName() string { return d.Reason.row().err }

// Message returns the message of a denial's body.
func (d Decision) Message() string { return d.Reason.row().message + d.missing }

// RetryAfter reports whether the answer has the header Retry-After: 1.
func (d Decision) RetryAfter() bool { return d.Reason.row().retry }

// Challenge returns the WWW-Authenticate header of a denial (RFC 6750 section 3), "" if it has
// none.
func (d Decision) Challenge() string {
	if d.Reason == ScopeMissing && d.Kind == credential.Key {
		return realm + `, error="insufficient_scope", scope="` + strings.Join(d.required, " ") + `"`
	}
	return d.Reason.row().challenge
}

// Reason is why a check was decided as it was. Metrics, logs and dynamic metadata use its name.
type Reason uint8

// The reasons, in the order in which they are evaluated. The zero Reason is Unavailable.
const (
	Unavailable Reason = iota // the facts are not available
	NoCredential
	MalformedAuthorization
	SessionOrigin // a session cookie without the web app's origin
	KeyUnknown
	KeyRevoked
	KeyExpired
	SessionExpired // unknown, ended or expired
	AccountTerminated
	NoPolicy // the endpoint has no requirement
	SessionRequired
	KeyRequired
	ScopeMissing
	RateLimited // look-ups of unknown credentials are over the limit
	OK          // the only reason that allows
	reasonCount
)

// row is one row of the deny table.
type row struct {
	name      string
	status    int   // HTTP
	code      int32 // google.rpc.Code; never 0 on a denial, because Envoy treats 0 as an allow
	err       string
	message   string
	challenge string // WWW-Authenticate
	retry     bool   // Retry-After: 1
}

const (
	realm          = `Bearer realm="phantom"`
	invalidRequest = realm + `, error="invalid_request"`
	invalidToken   = realm + `, error="invalid_token"`
)

func unauthorized(name, message, challenge string) row {
	return row{name, 401, 16, "UNAUTHORIZED", message, challenge, false}
}

func forbidden(name, message string) row {
	return row{name, 403, 7, "FORBIDDEN", message, "", false}
}

var table = [reasonCount]row{
	Unavailable:            {"unavailable", 503, 14, "SERVICE_UNAVAILABLE", "Authorization is temporarily unavailable", "", true},
	NoCredential:           unauthorized("no_credential", "Missing API key", realm),
	MalformedAuthorization: unauthorized("malformed_authorization", "Malformed Authorization header", invalidRequest),
	SessionOrigin:          forbidden("session_origin", "Session cookies are accepted only from the web app"),
	KeyUnknown:             unauthorized("key_unknown", "Invalid API key", invalidToken),
	KeyRevoked:             unauthorized("key_revoked", "API key has been revoked", invalidToken),
	KeyExpired:             unauthorized("key_expired", "API key has expired", invalidToken),
	SessionExpired:         unauthorized("session_expired", "Session has expired", realm),
	AccountTerminated:      {"account_terminated", 403, 7, "ACCOUNT_TERMINATED", "Account has been terminated", "", false},
	NoPolicy:               forbidden("no_policy", "No access policy for this endpoint"),
	SessionRequired:        forbidden("session_required", "This endpoint is not available to API keys"),
	KeyRequired:            forbidden("key_required", "This endpoint requires an API key"),
	ScopeMissing:           forbidden("scope_missing", "Missing required scope: "), // the scope's name follows
	RateLimited:            {"rate_limited", 429, 8, "TOO_MANY_REQUESTS", "Too many requests with unknown credentials", "", true},
	OK:                     {name: "ok", status: 200},
}

// String returns the name in metadata, metrics and logs. A value that is not one of the constants
// is "unavailable".
func (r Reason) String() string { return r.row().name }

func (r Reason) row() *row {
	if r >= reasonCount {
		r = Unavailable
	}
	return &table[r]
}

// Reasons returns all reasons.
func Reasons() []Reason {
	all := make([]Reason, reasonCount)
	for i := range all {
		all[i] = Reason(i)
	}
	return all
}
