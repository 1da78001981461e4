package operatorapi

import (
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
)

// The types of this file are the JSON objects of the operators' and the owners' side, with their fields in
// the order of the contract. The key API writes them and Client reads them. Only Plaintext has a place for
// a secret, and none has one for a digest.

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
	State      string     `json:"state"` // active or revoked; ExpiresAt says whether it has expired
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

// Change is the progress of a change on its way to the sidecars.
type Change struct {
	Revision    int64      `json:"revision"`
	Effective   bool       `json:"effective"`    // no sidecar can act on the old fact any more
	EffectiveBy *time.Time `json:"effective_by"` // when that is certain in any case; nil once it is effective
	// Owners do not get the next two fields, because the names of sidecars protect their acknowledgements.
	Waiting    *int     `json:"waiting,omitzero"`     // number of sidecars that it waits for
	WaitingFor []string `json:"waiting_for,omitzero"` // their names, at most 100
}

// Remaining returns the number of sidecars that the change waits for.
func (c Change) Remaining() int {
	if c.Waiting == nil {
		return len(c.WaitingFor)
	}
	return max(*c.Waiting, len(c.WaitingFor))
}

// Sidecar is the record of one sidecar's last poll.
type Sidecar struct {
	Name        string    `json:"name"`
	Revision    int64     `json:"revision"` // acknowledged
	LeaseEndsAt time.Time `json:"lease_ends_at"`
	StaleEndsAt time.Time `json:"stale_ends_at"` // it answers nothing from its cache after this
}

// Event is one entry of the audit.
type Event struct {
	At      time.Time         `json:"at"`
	Actor   string            `json:"actor"`
	Action  string            `json:"action"`
	Account string            `json:"account"`
	Key     *string           `json:"key"` // nil if the event is not about a key
	Detail  map[string]string `json:"detail"`
}

// UsageHour is how often a key was used, by the reports that arrived within the hour.
type UsageHour struct {
	Hour    time.Time `json:"hour"` // its beginning
	Allowed int64     `json:"allowed"`
	Denied  int64     `json:"denied"`
}

// Plaintext is a secret in the response that shows it. Only its form in this package's JSON has the text: fmt,
// loggers and encoding/json redact it.
type Plaintext struct{ credential.Secret }

// MarshalJSONTo implements json.MarshalerTo.
func (p Plaintext) MarshalJSONTo(enc *jsontext.Encoder) error {
	return enc.WriteToken(jsontext.String(p.Reveal()))
}

// UnmarshalJSONFrom implements json.UnmarshalerFrom.
func (p *Plaintext) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	var text string
	err := json.UnmarshalDecode(dec, &text)
	p.Secret = credential.NewSecret(text)
	return err
}

// Answer is the response to a request that is not for a list. It has the fields that the operation returns; the
// others are zero.
type Answer struct {
	Account   *Account  `json:"account,omitzero"`
	Key       *Key      `json:"key,omitzero"`
	Session   *Session  `json:"session,omitzero"`
	Sidecar   *Sidecar  `json:"sidecar,omitzero"`   // the record before a ForgetSidecar
	Plaintext Plaintext `json:"plaintext,omitzero"` // of a minted key
	Token     Plaintext `json:"token,omitzero"`     // of a minted session
	Replaced  *Key      `json:"replaced,omitzero"`  // the old key after a roll
	Revoked   []string  `json:"revoked,omitzero"`   // ids of the keys that a RevokeChain has revoked
	Change    *Change   `json:"change,omitzero"`
	// JSON is the body as Client received it. It is a Secret because it may have a plaintext.
	JSON credential.Secret `json:"-"`
}

// Page is the response to a request for a list.
type Page struct {
	Accounts []Account   `json:"accounts,omitzero"`
	Keys     []Key       `json:"keys,omitzero"`
	Sidecars []Sidecar   `json:"sidecars,omitzero"`
	Events   []Event     `json:"events,omitzero"`
	Usage    []UsageHour `json:"usage,omitzero"`
	Next     *string     `json:"next"` // cursor of the next page, nil on the last one
}

// decodeAnswer reads an answer that must have the fields named in need. Its errors
// do not repeat the body.
func decodeAnswer(body []byte, need []string) (Answer, error) {
	answer := Answer{JSON: credential.NewSecret(string(body))}
	if err := httpapi.Decode(body, &answer); err != nil {
		return Answer{}, err
	}
	there := map[string]bool{
		"account":   answer.Account != nil && answer.Account.ID != "",
		"key":       answer.Key != nil && answer.Key.ID != "",
		"replaced":  answer.Replaced != nil && answer.Replaced.ID != "",
		"revoked":   answer.Revoked != nil,
		"session":   answer.Session != nil && answer.Session.ID != "",
		"sidecar":   answer.Sidecar != nil && answer.Sidecar.Name != "",
		"change":    answer.Change != nil,
		"plaintext": !answer.Plaintext.Empty(),
		"token":     !answer.Token.Empty(),
	}
	for _, field := range need {
		if !there[field] {
			return Answer{}, fmt.Errorf("missing field %q", field)
		}
	}
	return answer, nil
}

// WithChange returns the answer with the change of a later one, as Revision returns it.
func (a Answer) WithChange(later Answer) Answer {
	a.Change = later.Change
	a.JSON = credential.NewSecret(replaceField(a.JSON.Reveal(), "change", later.JSON.Reveal()))
	return a
}

// replaceField replaces one field of an object by that of another object. All other bytes stay the same.
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
