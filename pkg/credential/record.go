package credential

import "time"

// Kind tells API keys from console sessions. The zero Kind is neither and
// satisfies nothing.
type Kind uint8

// The kinds of credential.
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

// State is whether a credential or an account is in force. The zero State is
// unknown, and whoever judges treats it as not in force.
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

// Account is what is known of a credential's owner.
type Account struct {
	ID    string
	State State // Active or Terminated
}

// Record is the facts about one credential, as the key API tells them. It holds
// no verdict: expiry, state and scopes are judged anew at every check. The zero
// Record is in force for nobody.
type Record struct {
	Kind      Kind
	ID        string
	State     State     // Active or Revoked
	ExpiresAt time.Time // zero: never
	Scopes    Scopes    // a session's are those beyond what the sidecar gives every session
	Account   Account
}
