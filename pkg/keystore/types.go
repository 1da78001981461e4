package keystore

import (
	"fmt"
	"strings"
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
	Revision     int64     // of its latest change
}

// Key is an API key. Only its digest is stored.
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
	Revision   int64     // of its latest change
}

// Session is a console session. Only its digest is stored.
type Session struct {
	ID        string
	Account   string
	Digest    credential.Digest
	CreatedAt time.Time
	ExpiresAt time.Time
	Revision  int64 // of its end; 0 before it, because a new session is not in the log
}

// NewKey is a key to create.
type NewKey struct {
	ID, Account, Label, Hint string
	Digest                   credential.Digest
	Scopes                   credential.Scopes
	ExpiresAt                time.Time // zero: never
	Imported                 bool      // the event is key.import, not key.mint
	Limit                    int       // of the account's keys that are neither revoked nor expired; 0: no limit
}

// Roll replaces a key by a successor.
type Roll struct {
	ID      string            // the key to replace
	Account string            // the account that it must belong to; "": any
	NewID   string            // the successor's
	Digest  credential.Digest // the successor's
	Hint    string            // the successor's
	Grace   time.Duration     // 0: the old key is revoked now
}

// RevokedChain is a chain of keys after RevokeChain.
type RevokedChain struct {
	Key      Key      // the key that was named
	Revoked  []string // ids of the keys that this call revoked, in the order of creation; never nil
	Revision int64    // the newest of all keys of the chain
}

// NewSession is a session to create.
type NewSession struct {
	ID, Account string
	Digest      credential.Digest
	TTL         time.Duration
}

// MaxImport is the largest number of keys of one Admin.ImportKeys. Smaller takes more requests for a large import; larger makes
// other changes wait longer than a fraction of a second.
const MaxImport = 10_000

// Imported is the result of an import.
type Imported struct {
	Imported int // keys that are new
	Existing int // keys that the same account had already, or that are in the list twice
	// Revision is of the last change of the import. If it made none, it is the largest of the existing keys; 0 for an empty
	// list.
	Revision int64
}

// ImportError is the mistake in one key of an import: ErrNotFound or a Conflict.
type ImportError struct {
	Index int // in the list, from 0
	Err   error
}

// Error implements error.
func (e *ImportError) Error() string { return fmt.Sprintf("key %d: %v", e.Index, e.Err) }

// Unwrap gives errors.Is and errors.As the cause.
func (e *ImportError) Unwrap() error { return e.Err }

// ImportErrors are all mistakes of an import, in the order of the list; never empty.
type ImportErrors []*ImportError

// Error implements error.
func (e ImportErrors) Error() string {
	const most = 3 // that the text names
	var texts []string
	for _, mistake := range e[:min(most, len(e))] {
		texts = append(texts, mistake.Error())
	}
	if len(e) > most {
		texts = append(texts, fmt.Sprintf("and %d more", len(e)-most))
	}
	return strings.Join(texts, "; ")
}

// Unwrap gives errors.Is and errors.As all of them.
func (e ImportErrors) Unwrap() []error {
	all := make([]error, len(e))
	for i, mistake := range e {
		all[i] = mistake
	}
	return all
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

// Action is the kind of an Event.
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
	// NotBefore is the moment before which no change is effective, because sidecars may exist that are not on record after
	// NewEpoch. Zero: no such moment.
	NotBefore time.Time
	Now       time.Time // the store's clock when it read the head
}

// Change is one row of the log. If Account is set, every credential of that account has changed, else the credential with
// Digest.
type Change struct {
	Revision int64
	Account  string
	Digest   credential.Digest
}

// Fact is the result of Resolve for one digest.
type Fact struct {
	Found  bool
	Record credential.Record // the zero Record if not found
}

// Poll is one request of a sidecar to the change log.
type Poll struct {
	Sidecar  string        // its name, stable for the life of one process
	Number   int64         // larger in each request of one process; at least 1
	Epoch    string        // of the log that Revision counts in
	Revision int64         // acknowledged: every change up to it has been applied; -1: requests the head only
	Limit    int           // how many changes after Revision the answer can carry
	Lease    time.Duration // that the poll may get, counted from now by the store's clock; positive
	MaxStale time.Duration // how long after the lease's end it may still answer from its cache
	// Leave: the process stops and answers nothing more. Epoch, Revision and Limit are ignored then. A name without a record
	// stays refused for Lease + MaxStale.
	Leave bool
}

// Bounds of the sidecars on record. Smaller refuses large deployments; larger lets the holder of a leaked service token fill
// more of the database.
const (
	MaxSidecars     = 100_000 // that have not left and were not forgotten
	MaxGoneSidecars = 100_000 // that have left
)

// Sidecar is the record of one sidecar's polls.
type Sidecar struct {
	Name        string
	Poll        int64     // the largest Number on record
	Gone        bool      // it has left or was forgotten: it is not listed, and no change waits for it
	Revision    int64     // acknowledged
	LeaseEndsAt time.Time // of the last lease given
	StaleEndsAt time.Time // lease end + max_stale: nothing cached answers later
	// Grants are the leases that still matter, at most MaxGrants, with both fields in rising order.
	Grants []Grant
}

// Grant is one lease that a sidecar was given, whether or not the answer arrived. The answer with the lease carries every
// change up to Covers, and the sidecar applies them before it uses the lease. So under this lease it may lack later changes
// only.
type Grant struct {
	Covers      int64
	StaleEndsAt time.Time
}

// Leases is a summary of the sidecars that hold a lease.
type Leases struct {
	Count    int
	Revision int64     // the lowest that one has acknowledged; that of the head without any
	FirstEnd time.Time // of a lease; zero without any
}

// Usage is one credential's use since the sidecar's last report.
type Usage struct {
	Digest          credential.Digest
	LastUsedAt      time.Time
	Allowed, Denied int64
}

// UsageRetention is the least time that the counts of an hour are kept. Smaller loses the history sooner; larger takes more of
// the database.
const UsageRetention = 90 * 24 * time.Hour

// UsageSpan selects hours of one key.
type UsageSpan struct {
	Key         string    // its id
	Account     string    // the account that it must belong to; "": any
	From, Until time.Time // hours that begin in between, including From; zero: no bound
}

// UsageHour is how often a key was used, by the reports that arrived within the hour.
type UsageHour struct {
	Hour            time.Time // its beginning
	Allowed, Denied int64     // each at most 1 << 53
}

// Page selects a part of a list. An empty After selects the first page.
type Page struct {
	Limit int    // 1 to 1000, anything else is an error
	After string // Next of the page before, unchanged
}
