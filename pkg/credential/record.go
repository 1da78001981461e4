// Package credential defines the types that all other packages share: a plaintext credential
// (Secret), its SHA-256 (Digest), the facts about it (Record, Account, Scopes), the format of the
// keys and session tokens that the key API mints, and the headers that carry an identity. It
// imports the standard library alone, and its only I/O is reading random bytes.
package credential

import (
	"errors"
	"time"
)

// ErrRateLimited reports that a credential was not looked up, because too many unknown
// credentials were. It says nothing about the credential.
var ErrRateLimited = errors.New("too many look-ups of unknown credentials")

// Kind distinguishes API keys from sessions. The zero Kind is unknown and meets no requirement.
type Kind uint8

// The kinds.
const (
	Key Kind = iota + 1
	Session
)

// String returns the wire name: "key", "session", or "" for the zero Kind.
func (k Kind) String() string {
	switch k {
	case Key:
		return "key"
	case Session:
		return "session"
	}
	return ""
}

// State is the state of a credential or an account. The zero State is unknown and must be
// treated as not in force.
type State uint8

// The states. A credential is Active or Revoked, an account Active or Terminated.
const (
	Active State = iota + 1
	Revoked
	Terminated
)

// String returns the wire name: "active", "revoked", "terminated", or "".
func (s State) String() string {
	switch s {
	case Active:
		return "active"
	case Revoked:
		return "revoked"
	case Terminated:
		return "terminated"
	}
	return ""
}

// Account is the owner of a credential.
type Account struct {
	ID    string
	State State // Active or Terminated
}

// Record is the facts about one credential, as the key API returns them. It holds no decision:
// expiry, state and scopes are evaluated at every check. The zero Record is denied.
type Record struct {
	Kind      Kind
	ID        string
	State     State     // Active or Revoked
	ExpiresAt time.Time // zero: never
	Scopes    Scopes    // without the scopes that the sidecar adds to every session
	Account   Account
}
