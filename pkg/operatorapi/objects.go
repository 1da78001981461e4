package operatorapi

import (
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
)

// Account owns keys and sessions.
type Account struct {
	ID           string     `json:"id"`
	Name         string     `json:"name"`
	State        string     `json:"state"` // active or terminated
	CreatedAt    time.Time  `json:"created_at"`
	TerminatedAt *time.Time `json:"terminated_at"`
}

// Key is an API key, without its plaintext.
type Key struct {
	ID         string     `json:"id"`
	Account    string     `json:"account"`
	Label      string     `json:"label"`
	Hint       *string    `json:"hint"` // first characters of the plaintext; nil for an imported key
	Scopes     []string   `json:"scopes"`
	State      string     `json:"state"` // active or revoked; whether it has expired is told by ExpiresAt
	CreatedAt  time.Time  `json:"created_at"`
	CreatedBy  string     `json:"created_by"` // operator:NAME or owner:ACCOUNT
	ExpiresAt  *time.Time `json:"expires_at"`
	RevokedAt  *time.Time `json:"revoked_at"`
	LastUsedAt *time.Time `json:"last_used_at"` // exact to a minute or so
	ReplacedBy *string    `json:"replaced_by"`  // id of the successor after a roll
}

// Session is a console session, without its token.
type Session struct {
	ID        string    `json:"id"`
	Account   string    `json:"account"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Change is how far a change has come on its way to the sidecars.
type Change struct {
	Revision    int64      `json:"revision"`
	Effective   bool       `json:"effective"`    // no sidecar can still act on the old fact
	EffectiveBy *time.Time `json:"effective_by"` // when that is certain, whatever happens; nil once it is
	Waiting     int        `json:"waiting"`      // number of sidecars that it waits for
	WaitingFor  []string   `json:"waiting_for"`  // their names, of at most 100
}

// Sidecar is the record of one sidecar's last poll.
type Sidecar struct {
	Name        string    `json:"name"`
	Revision    int64     `json:"revision"` // acknowledged
	LeaseEndsAt time.Time `json:"lease_ends_at"`
	StaleEndsAt time.Time `json:"stale_ends_at"` // nothing that it cached answers later
}

// Event is one entry of the audit.
type Event struct {
	At      time.Time      `json:"at"`
	Actor   string         `json:"actor"`
	Action  string         `json:"action"`
	Account string         `json:"account"`
	Key     string         `json:"key"` // "" where it is not about a key
	Detail  map[string]any `json:"detail"`
}

// Answer is what Do returns. Those fields are set that the request's operation
// answers; the others are zero.
type Answer struct {
	Account   *Account
	Key       *Key
	Replaced  *Key     // the old key, after a roll
	Revoked   []string // ids of the keys that a RevokeChain has revoked
	Session   *Session
	Sidecar   *Sidecar // the record as it was, after a ForgetSidecar
	Change    *Change
	Plaintext credential.Secret // of a minted key
	Token     credential.Secret // of a minted session
	// JSON is the body as it came. It is a Secret because a mint's holds the plaintext.
	JSON credential.Secret
}

// answerBody is an Answer on the wire.
type answerBody struct {
	Account   *Account `json:"account"`
	Key       *Key     `json:"key"`
	Replaced  *Key     `json:"replaced"`
	Revoked   []string `json:"revoked"`
	Session   *Session `json:"session"`
	Sidecar   *Sidecar `json:"sidecar"`
	Change    *Change  `json:"change"`
	Plaintext string   `json:"plaintext"`
	Token     string   `json:"token"`
}

// decodeAnswer reads an answer that must have the fields named in need. Its errors
// do not repeat the body.
func decodeAnswer(body []byte, need []string) (Answer, error) {
	var wire answerBody
	if err := httpapi.Decode(body, &wire); err != nil {
		return Answer{}, err
	}
	there := map[string]bool{
		"account":   wire.Account != nil && wire.Account.ID != "",
		"key":       wire.Key != nil && wire.Key.ID != "",
		"replaced":  wire.Replaced != nil && wire.Replaced.ID != "",
		"revoked":   wire.Revoked != nil,
		"session":   wire.Session != nil && wire.Session.ID != "",
		"sidecar":   wire.Sidecar != nil && wire.Sidecar.Name != "",
		"change":    wire.Change != nil,
		"plaintext": wire.Plaintext != "",
		"token":     wire.Token != "",
	}
	for _, field := range need {
		if !there[field] {
			return Answer{}, fmt.Errorf("missing field %q", field)
		}
	}
	return Answer{
		Account: wire.Account, Key: wire.Key, Replaced: wire.Replaced, Revoked: wire.Revoked, Session: wire.Session,
		Sidecar: wire.Sidecar, Change: wire.Change,
		Plaintext: credential.NewSecret(wire.Plaintext), Token: credential.NewSecret(wire.Token),
		JSON: credential.NewSecret(string(body)),
	}, nil
}

// WithChange returns the answer with another answer's news of its change, as
// Revision brings them.
func (a Answer) WithChange(later Answer) Answer {
	a.Change = later.Change
	a.JSON = credential.NewSecret(replaceField(a.JSON.Reveal(), "change", later.JSON.Reveal()))
	return a
}

// replaceField puts another object's field in the place of the same field; all else
// stays as it is, to the byte.
func replaceField(object, field, from string) string {
	var source map[string]jsontext.Value
	if err := httpapi.Decode([]byte(from), &source); err != nil || source[field] == nil {
		return object
	}
	in := jsontext.NewDecoder(strings.NewReader(object))
	if _, err := in.ReadToken(); err != nil { // the opening brace
		return object
	}
	for {
		name, err := in.ReadToken()
		if err != nil || name.Kind() != '"' {
			return object
		}
		found := name.String() == field
		value, err := in.ReadValue()
		if err != nil {
			return object
		}
		if end := int(in.InputOffset()); found {
			return object[:end-len(value)] + string(source[field]) + object[end:]
		}
	}
}
