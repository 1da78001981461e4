package keystore

import (
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// Account owns keys and sessions.
type Account struct {
	ID           string
	Name         string
	State        credential.State // Active or Terminated
	CreatedAt    time.Time
	TerminatedAt time.Time // zero: not terminated
	Revision     int64     // of the change that made it what it is
}

// Key is an API key, known by its digest alone.
type Key struct {
	ID         string
	Account    string
	Digest     credential.Digest
	Label      string
	Hint       string // first characters of the plaintext; "" for an imported key
	Scopes     credential.Scopes
	State      credential.State // Active or Revoked
	CreatedAt  time.Time
	CreatedBy  string    // the actor
	ExpiresAt  time.Time // zero: never
	RevokedAt  time.Time // zero: not revoked
	LastUsedAt time.Time // zero: never reported
	ReplacedBy string    // id of the successor after a roll; "": not rolled
	Chain      string    // id of the first key of its chain; "": neither rolled nor a successor
	Revision   int64     // of the change that made it what it is
}

// Session is a console session, known by its digest alone.
type Session struct {
	ID        string
	Account   string
	Digest    credential.Digest
	CreatedAt time.Time
	ExpiresAt time.Time
	Revision  int64 // of its end; 0 while it lives: a beginning is not in the log
}

// Event is one entry of the audit, written in the transaction of its change.
type Event struct {
	At      time.Time
	Actor   string // operator:NAME or owner:ACCOUNT
	Action  Action
	Account string
	Key     string            // "" where the change is not about a key
	Detail  map[string]string // never a secret, never nil; see Action for its fields
}

// Action names what an Event tells of.
type Action string

// The actions.
const (
	AccountCreate    Action = "account.create"    // detail: name
	AccountTerminate Action = "account.terminate" // no detail
	AccountReinstate Action = "account.reinstate" // no detail
	KeyMint          Action = "key.mint"          // detail: label, scopes (space-separated), expires_at if any
	KeyImport        Action = "key.import"        // as KeyMint
	KeyRevoke        Action = "key.revoke"        // no detail
	KeyRoll          Action = "key.roll"          // key: the old one; detail: successor, grace_seconds, revoked (earlier keys of the chain, space-separated) if any
	KeyGrant         Action = "key.grant"         // detail: scope
	KeyUngrant       Action = "key.ungrant"       // detail: scope
	SessionMint      Action = "session.mint"      // detail: session, expires_at
	SessionEnd       Action = "session.end"       // detail: session
	SidecarForget    Action = "sidecar.forget"    // account: ""; detail: name
)

// Head is the end of the change log.
type Head struct {
	Epoch    string // identity of the log; another value means that it was replaced
	Revision int64  // of the newest change; 0 for a log without one
	// NotBefore is the moment before which no change counts as effective: after
	// NewEpoch sidecars may exist that the store does not know. Zero: no such moment.
	NotBefore time.Time
	Now       time.Time // the store's clock when it read the head
}

// Change is one row of the log. Either Account is set, and every credential of
// that account has changed, or the one credential with Digest has.
type Change struct {
	Revision int64
	Account  string
	Digest   credential.Digest
}

// Fact is what resolve tells of one digest.
type Fact struct {
	Found  bool
	Record credential.Record // the zero Record if not found
}

// Poll is what one request of a sidecar to the change log states.
type Poll struct {
	Sidecar  string        // its name, stable for the life of one process
	Number   int64         // larger in each request of one process; at least 1
	Epoch    string        // of the log that Revision counts in
	Revision int64         // acknowledged: every change up to it has been applied; -1: requests the head only
	Limit    int           // the answer can carry so many changes after Revision
	Lease    time.Duration // wanted for it, counted from now by the store's clock; positive
	MaxStale time.Duration // how long after the lease's end it may still answer from its cache
	// Leave: the process stops and will answer nothing more. Epoch, Revision and Limit have
	// no meaning then. Lease + MaxStale is how long a name without a record stays refused.
	Leave bool
}

// Bounds of the sidecars on record. Smaller refuses large fleets; larger lets the holder
// of a leaked service token fill more of the database.
const (
	MaxSidecars     = 100_000 // that have not left and were not forgotten
	MaxGoneSidecars = 100_000 // that have left
)

// Sidecar is the record of one sidecar's polls.
type Sidecar struct {
	Name        string
	Poll        int64     // the largest Number on record
	Gone        bool      // it has left or was forgotten: no list has it, and no change waits for it
	Revision    int64     // acknowledged
	LeaseEndsAt time.Time // of the last lease given
	StaleEndsAt time.Time // lease end + max_stale: nothing it cached answers later
	// Grants tell until when it may answer from how old facts: those that still matter,
	// at most MaxGrants, both fields rising.
	Grants []Grant
}

// Grant is one lease that a sidecar was given, or was sent and never heard of. The
// answer with the lease carries every change up to Covers, and the lease is not
// used before they are applied: so only later changes are unknown to whoever answers
// under it.
type Grant struct {
	Covers      int64
	StaleEndsAt time.Time
}

// Usage is one credential's use since the sidecar's last report.
type Usage struct {
	Digest          credential.Digest
	LastUsedAt      time.Time
	Allowed, Denied int64
}

// UsageRetention is how long the counts of an hour are kept, at least.
const UsageRetention = 90 * 24 * time.Hour

// UsageSpan names hours of one key.
type UsageSpan struct {
	Key         string    // its id
	Account     string    // whose it must be, "" for anyone's
	From, Until time.Time // the hours that begin in between, From included; zero: no such bound
}

// UsageHour is how often a key was used, by the reports that came within the hour.
type UsageHour struct {
	Hour            time.Time // its beginning
	Allowed, Denied int64     // each at most 1 << 53
}

// Page asks for a part of a list. The zero After asks for the first page.
type Page struct {
	Limit int    // 1 to 1000, anything else is an error
	After string // Next of the page before, as it was
}
