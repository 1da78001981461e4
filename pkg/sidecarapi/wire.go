package sidecarapi

import (
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// Bounds of the protocol.
const (
	MaxResolve = 1000             // digests in one resolve
	MaxChanges = 10000            // changes in one answer
	MaxUsed    = 10000            // credentials in one usage report
	MaxWait    = 30 * time.Second // of one long poll
	MaxSidecar = 128              // characters of a sidecar's name
)

// Paths of the operations.
const (
	ResolvePath = "/v1/resolve"
	ChangesPath = "/v1/changes"
	UsagePath   = "/v1/usage"
)

// ResolveRequest requests the facts about credentials.
type ResolveRequest struct {
	Credentials []string `json:"credentials"` // digests in hex, 1 to MaxResolve
}

// ResolveResponse has one result for each digest, in the order of the request.
type ResolveResponse struct {
	Epoch       string       `json:"epoch"`
	Revision    int64        `json:"revision"` // head of the log, read before the facts
	Credentials []Credential `json:"credentials"`
}

// Credential is one result of resolve. It has Facts if Found is true.
type Credential struct {
	SHA256 string `json:"sha256"`
	Found  bool   `json:"found"`
	*Facts
}

// Facts are the facts about a credential.
type Facts struct {
	Kind      string     `json:"kind"`
	ID        string     `json:"id"`
	State     string     `json:"state"`
	ExpiresAt *time.Time `json:"expires_at"`
	Scopes    []string   `json:"scopes"`
	Account   Account    `json:"account"`
}

// Account is a credential's owner.
type Account struct {
	ID    string `json:"id"`
	State string `json:"state"`
}

// ChangesRequest is one long poll: cursor, acknowledgement and heartbeat.
type ChangesRequest struct {
	Sidecar    string `json:"sidecar"`
	Poll       int64  `json:"poll"` // larger in every request of a process, including Leave
	Epoch      string `json:"epoch,omitzero"`
	After      int64  `json:"after"`
	WaitMS     int64  `json:"wait_ms,omitzero"`
	Leave      bool   `json:"leave,omitzero"`
	MaxStaleMS int64  `json:"max_stale_ms,omitzero"`
}

// ChangesResponse has the changes and renews the lease.
type ChangesResponse struct {
	Epoch    string   `json:"epoch"`
	Revision int64    `json:"revision"`
	Changes  []Change `json:"changes"`
	LeaseMS  int64    `json:"lease_ms"`
}

// Change is the change of one credential, or of all credentials of an account.
type Change struct {
	Revision   int64  `json:"revision"`
	Credential string `json:"credential,omitzero"`
	Account    string `json:"account,omitzero"`
}

// GoneResponse is the body of a 410.
type GoneResponse struct {
	Epoch    string `json:"epoch"`
	Revision int64  `json:"revision"`
}

// UsageRequest reports when credentials were last used and how often.
type UsageRequest struct {
	Sidecar string `json:"sidecar"`
	Used    []Used `json:"used"`
}

// Used is the usage of one credential since the sidecar's last report.
type Used struct {
	SHA256     string    `json:"sha256"`
	LastUsedAt time.Time `json:"last_used_at"`
	Allowed    int64     `json:"allowed,omitzero"`
	Denied     int64     `json:"denied,omitzero"`
}

// CredentialOf makes the wire form of a record.
func CredentialOf(d credential.Digest, found bool, rec credential.Record) Credential {
	c := Credential{SHA256: d.Hex(), Found: found}
	if !found {
		return c
	}
	c.Facts = &Facts{
		Kind:    rec.Kind.String(),
		ID:      rec.ID,
		State:   rec.State.String(),
		Scopes:  rec.Scopes.List(),
		Account: Account{ID: rec.Account.ID, State: rec.Account.State.String()},
	}
	if !rec.ExpiresAt.IsZero() {
		at := rec.ExpiresAt.UTC()
		c.ExpiresAt = &at
	}
	return c
}
