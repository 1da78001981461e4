package policy

import (
	"strings"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// Judge holds what of the configuration bears on a decision. The zero Judge gives
// sessions no scopes of their own.
type Judge struct {
	// SessionScopes are the scopes that every session carries.
	SessionScopes credential.Scopes
}

// Decide judges one presented credential. Kind is how it was presented (as a
// Bearer key or in the session cookie), and a record of the other kind counts as
// not found; found tells whether the key API knows the credential; now is the
// moment of the check. A record with a state that is neither active nor revoked
// teaches nothing: Unavailable.
func (j Judge) Decide(kind credential.Kind, rec credential.Record, found bool, req Requirement, now time.Time) Decision {
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
	if kind == credential.Session {
		d.Scopes = rec.Scopes.With(j.SessionScopes)
	}
	if d.Reason = standing(rec, now); d.Reason == OK {
		d.Reason, d.missing = req.judge(kind, d.Scopes)
	}
	return d
}

// NotFound is the reason of a credential that nobody knows.
func NotFound(kind credential.Kind) Reason {
	switch kind {
	case credential.Key:
		return KeyUnknown
	case credential.Session:
		return SessionExpired
	}
	return Unavailable
}

// standing judges the credential by itself, whatever the endpoint.
func standing(rec credential.Record, now time.Time) Reason {
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

// judge holds a credential in good standing against the endpoint.
func (r Requirement) judge(kind credential.Kind, held credential.Scopes) (Reason, string) {
	switch {
	case r.Principal != Any && r.Principal != KeyOnly && r.Principal != SessionOnly:
		return NoPolicy, ""
	case r.Principal == SessionOnly && kind != credential.Session:
		return SessionRequired, ""
	case r.Principal == KeyOnly && kind != credential.Key:
		return KeyRequired, ""
	}
	if name, lacks := r.missing(held); lacks {
		return ScopeMissing, name
	}
	return OK, ""
}

// Decision is the outcome of one check. The zero Decision denies.
type Decision struct {
	Reason Reason
	// Who asked, as far as it is known; empty where no record was found.
	AccountID, CredentialID string
	Kind                    credential.Kind
	Scopes                  credential.Scopes // all that the credential carries

	missing  string   // with ScopeMissing: the first scope that is lacking
	required []string // all that the endpoint names
}

// Deny is a decision about nobody in particular.
func Deny(r Reason) Decision {
	if r == OK {
		r = Unavailable // an allow comes from Decide alone
	}
	return Decision{Reason: r}
}

// Withdraw returns the decision with an allow replaced by Unavailable: for an answer that comes
// too late to rest on the facts. A denial stays as it is.
func (d Decision) Withdraw() Decision {
	if d.Allowed() {
		d.Reason = Unavailable
	}
	return d
}

// Allowed tells whether the request may go on.
func (d Decision) Allowed() bool { return d.Reason == OK }

// Status returns the HTTP status of the answer, 200 for an allow.
func (d Decision) Status() int { return d.Reason.row().status }

// Code returns the gRPC status (google.rpc.Code) of the answer: 0 for an allow
// and never for a denial.
func (d Decision) Code() int32 { return d.Reason.row().code }

// ErrorName returns the error of a denial's body, such as "FORBIDDEN".
func (d Decision) ErrorName() string { return d.Reason.row().err }

// Message returns the message of a denial's body.
func (d Decision) Message() string { return d.Reason.row().message + d.missing }

// RetryAfter tells whether the answer carries Retry-After: 1.
func (d Decision) RetryAfter() bool { return d.Reason.row().retry }

const realm = `Bearer realm="phantom"`

// Challenge returns the WWW-Authenticate header of a denial (RFC 6750 section 3),
// "" if it has none.
func (d Decision) Challenge() string {
	switch d.Reason.row().challenge {
	case plainChallenge:
		return realm
	case invalidRequest:
		return realm + `, error="invalid_request"`
	case invalidToken:
		return realm + `, error="invalid_token"`
	case insufficientScope:
		if d.Kind == credential.Key {
			return realm + `, error="insufficient_scope", scope="` + strings.Join(d.required, " ") + `"`
		}
	case noChallenge:
	}
	return ""
}
