package sidecarapi

import (
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
)

// Outcome is the outcome of resolving one digest. The zero Outcome is Unusable.
type Outcome uint8

// The outcomes.
const (
	Unusable Outcome = iota // must not be cached or used for a decision
	NotFound                // the key API has no credential with this digest
	Found
)

// Result is the outcome for one digest, with the record if it was found.
type Result struct {
	Outcome Outcome
	Record  credential.Record
}

// Resolved is a validated response of resolve, with one result for each digest of the request.
type Resolved struct {
	Epoch    string
	Revision int64
	Results  []Result
}

// Changes is a validated response of changes.
type Changes struct {
	Epoch    string
	Revision int64         // to acknowledge once List is applied
	Lease    time.Duration // counted from the sending of the poll
	List     []AppliedChange
}

// AppliedChange names one digest or one account whose record has changed.
type AppliedChange struct {
	Revision int64
	Account  string // "" for a change of one credential
	Digest   credential.Digest
}

// Bounds of the values in a response. IDs go into headers, so they are visible ASCII. The bounds
// of scopes are those of package credential, by which the key API mints.
const (
	maxEpoch   = 256                 // bytes
	maxID      = 256                 // bytes
	maxLeaseMS = 24 * 60 * 60 * 1000 // a longer lease is a mistake of the key API
)

// Bounds of the responses, in bytes. They follow from those of the values, each character of
// which may be written as an escape of six bytes, and leave room for fields that a newer
// key API adds.
const (
	maxHead   = 64 << 10
	maxResult = 1024 + maxEscape*(2*maxID+credential.MaxScopes*(credential.MaxScopeName+len(`"",`)))
	maxChange = 128 + maxEscape*maxID
	maxEscape = len(`\u0000`)
)

var (
	errCount   = errors.New("response is invalid: must have one result for each digest")
	errOrder   = errors.New("response is invalid: results must be in the order of the digests")
	errMissing = errors.New("response is invalid: missing field or value out of bounds")
)

// head holds the fields that all responses have.
type head struct {
	Epoch    *string `json:"epoch"`
	Revision *int64  `json:"revision"`
}

func (h head) valid() bool {
	return h.Epoch != nil && *h.Epoch != "" && len(*h.Epoch) <= maxEpoch && h.Revision != nil && *h.Revision >= 0
}

func decodeResolve(body []byte, requested []credential.Digest) (Resolved, error) {
	var wire struct {
		head
		Credentials []jsontext.Value `json:"credentials"`
	}
	if err := decode(body, &wire); err != nil {
		return Resolved{}, err
	}
	if !wire.valid() {
		return Resolved{}, errMissing
	}
	if len(wire.Credentials) != len(requested) {
		return Resolved{}, errCount
	}
	out := Resolved{Epoch: *wire.Epoch, Revision: *wire.Revision, Results: make([]Result, len(requested))}
	for i, raw := range wire.Credentials {
		var named struct {
			SHA256 string `json:"sha256"`
		}
		if err := decode(raw, &named); err != nil {
			return Resolved{}, err
		}
		if d, err := credential.ParseDigest(named.SHA256); err != nil || d != requested[i] {
			return Resolved{}, errOrder
		}
		out.Results[i] = decodeResult(raw)
	}
	return out, nil
}

// decodeResult reads one result. If it breaks a rule or a bound, only this result is unusable.
func decodeResult(raw jsontext.Value) Result {
	var wire struct {
		Found     *bool     `json:"found"`
		Kind      string    `json:"kind"`
		ID        string    `json:"id"`
		State     string    `json:"state"`
		ExpiresAt *string   `json:"expires_at"`
		Scopes    *[]string `json:"scopes"`
		Account   struct {
			ID    string `json:"id"`
			State string `json:"state"`
		} `json:"account"`
	}
	if err := decode(raw, &wire); err != nil || wire.Found == nil {
		return Result{}
	}
	if !*wire.Found {
		return Result{Outcome: NotFound}
	}
	rec := credential.Record{
		Kind:    kinds[wire.Kind],
		ID:      wire.ID,
		State:   states[wire.State],
		Account: credential.Account{ID: wire.Account.ID, State: accountStates[wire.Account.State]},
	}
	if rec.Kind == 0 || rec.State == 0 || rec.Account.State == 0 || !validID(rec.ID) || !validID(rec.Account.ID) ||
		wire.Scopes == nil || len(*wire.Scopes) > credential.MaxScopes {
		return Result{}
	}
	for _, name := range *wire.Scopes {
		if !credential.ValidScope(name) {
			return Result{}
		}
	}
	rec.Scopes = credential.NewScopes(*wire.Scopes...)
	if wire.ExpiresAt != nil {
		at, err := httpapi.ParseTime(*wire.ExpiresAt)
		if err != nil || at.IsZero() {
			return Result{}
		}
		rec.ExpiresAt = at
	}
	return Result{Outcome: Found, Record: rec}
}

var (
	kinds         = map[string]credential.Kind{"key": credential.Key, "session": credential.Session}
	states        = map[string]credential.State{"active": credential.Active, "revoked": credential.Revoked}
	accountStates = map[string]credential.State{"active": credential.Active, "terminated": credential.Terminated}
)

func decodeChanges(body []byte, requested ChangesRequest) (Changes, error) {
	var wire struct {
		head
		Changes *[]jsontext.Value `json:"changes"`
		LeaseMS *int64            `json:"lease_ms"`
	}
	if err := decode(body, &wire); err != nil {
		return Changes{}, err
	}
	if !wire.valid() || wire.Changes == nil || wire.LeaseMS == nil ||
		*wire.LeaseMS < 0 || *wire.LeaseMS > maxLeaseMS || len(*wire.Changes) > MaxChanges {
		return Changes{}, errMissing
	}
	out := Changes{
		Epoch:    *wire.Epoch,
		Revision: *wire.Revision,
		Lease:    time.Duration(*wire.LeaseMS) * time.Millisecond,
		List:     make([]AppliedChange, 0, len(*wire.Changes)),
	}
	last := requested.After
	for _, raw := range *wire.Changes {
		c, err := decodeChange(raw)
		if err != nil {
			return Changes{}, err
		}
		// Several changes may have the same revision: a key API may commit them together.
		if c.Revision <= requested.After || c.Revision < last || c.Revision > out.Revision {
			return Changes{}, fmt.Errorf("response is invalid: change of revision %d after revision %d, head %d", c.Revision, last, out.Revision)
		}
		last = c.Revision
		out.List = append(out.List, c)
	}
	return out, nil
}

func decodeChange(raw jsontext.Value) (AppliedChange, error) {
	var wire struct {
		Revision   *int64  `json:"revision"`
		Credential *string `json:"credential"`
		Account    *string `json:"account"`
	}
	// An unknown member may name something that has changed.
	if err := decode(raw, &wire, json.RejectUnknownMembers(true)); err != nil {
		return AppliedChange{}, err
	}
	if wire.Revision == nil || (wire.Credential == nil) == (wire.Account == nil) {
		return AppliedChange{}, errMissing
	}
	c := AppliedChange{Revision: *wire.Revision}
	if wire.Account != nil {
		// An invalid ID is not an error: a result with it is unusable, so nothing of that
		// account is cached. An error would cost the lease, and with it all other entries.
		if c.Account = *wire.Account; c.Account == "" {
			return AppliedChange{}, errMissing
		}
		return c, nil
	}
	d, err := credential.ParseDigest(*wire.Credential)
	c.Digest = d
	return c, err
}

func decodeGone(body []byte) (*Gone, error) {
	var wire head
	if err := decode(body, &wire); err != nil {
		return nil, err
	}
	if !wire.valid() {
		return nil, errMissing
	}
	return &Gone{Epoch: *wire.Epoch, Revision: *wire.Revision}, nil
}

func validID(id string) bool {
	if id == "" || len(id) > maxID {
		return false
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] >= 0x7f {
			return false
		}
	}
	return true
}

// decode reads JSON strictly. Its errors repeat no value of the response.
func decode(text []byte, into any, opts ...json.Options) error {
	err := httpapi.Decode(text, into, opts...)
	var problem *httpapi.JSONError
	if errors.As(err, &problem) {
		return fmt.Errorf("response is invalid: %q %s", problem.Field, problem.Problem)
	}
	return err
}
