// Package keystore is the contract of the key API's store: accounts, keys and sessions (digests only, never a plaintext),
// their audit, the change log, and the record of each sidecar's lease. Store is the contract. The engines are in folders
// beside this file and pass one suite, storetest.
//
// The change log has one head row. Every mutation raises its revision in the mutation's own transaction (UPDATE head SET
// revision = revision + 1 RETURNING revision) and writes log rows with the new revisions. So revisions are dense and in the
// order of the commits, and a follower that has read revision n has missed nothing up to n. A sequence does not give that: a
// smaller number may commit after a larger one was read.
package keystore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// Errors that every engine returns, wrapped or not. Any other error means that the store is not available or the outcome is
// unknown. Its text may name internals of the engine and is for logs only.
var (
	ErrNotFound = errors.New("not found")
	// ErrGone: the epoch differs, the revision is beyond the head, or the log no longer reaches back to it.
	ErrGone = errors.New("the change log does not reach there")
	// ErrFull: MaxSidecars are on record, and the poll would add one.
	ErrFull = errors.New("too many sidecars are on record")
	// ErrCursor: Page.After is not the Next of a page of the same list.
	ErrCursor = errors.New("not a cursor of this list")
	// ErrUnreachable is in the chain of an engine's Open error if its database cannot be reached now, and may be later without
	// a change of the configuration: connecting fails, the server is starting or takes no writes, or another process holds the
	// file's lock. A wrong password, a missing database, a database of another program and a newer schema are other errors.
	ErrUnreachable = errors.New("cannot be reached")
)

// Conflict is a change that the present state forbids. Its message is for the caller.
type Conflict struct{ Message string }

// Error implements error.
func (c *Conflict) Error() string { return c.Message }

// Conflictf makes a Conflict.
func Conflictf(format string, args ...any) error {
	return &Conflict{Message: fmt.Sprintf(format, args...)}
}

// Store keeps all data of the key API.
//
// Concurrency: all methods may be called from many goroutines and, if the engine supports several processes, from many
// processes.
//
// Durability: when a mutation returns without an error, its change, its log rows and its audit event have been committed
// together and survive a crash of the process and of the machine. After an error, nothing of it was done. The outcome is
// unknown only after a context's error, or after an error whose text says that the commit has an unknown outcome.
//
// Order: revisions are dense (each is its predecessor + 1) and visible in order: a reader of revision n sees every change up
// to n.
//
// Repetition: a mutation that is already in place changes nothing, writes no event and no log row, and returns the object as
// it is, with the Revision of the change that made it so. This has precedence over any Conflict of the change.
//
// Times are stored to the microsecond or finer. Times from the caller are truncated to that, and an object is returned as
// it will be read.
//
// Deadlines: every call ends soon after its context does, with the context's error in the chain.
type Store interface {
	Admin
	Feed

	// Ping returns an error if the store cannot be read now.
	Ping(ctx context.Context) error
	// Close releases everything. No call may be in flight or follow.
	Close() error
}

// Admin is the part of the store that operators and owners use. The times of an object (CreatedAt, RevokedAt, …) are the
// store's; ids and digests come from the caller. Actor is "operator:NAME" or "owner:ACCOUNT".
type Admin interface {
	// CreateAccount returns a Conflict if the id exists.
	CreateAccount(ctx context.Context, actor, id, name string) (Account, error)
	Account(ctx context.Context, id string) (Account, error)
	// Accounts lists by creation, oldest first, as Keys does. next is "" on the last page.
	Accounts(ctx context.Context, page Page) (list []Account, next string, err error)
	// SetAccountState terminates (Terminated) or reinstates (Active).
	SetAccountState(ctx context.Context, actor, id string, state credential.State) (Account, error)

	// CreateKey returns ErrNotFound without the account, and a Conflict if the account is terminated, the id or the digest
	// exists (a session's digest too), or new.Limit is reached.
	CreateKey(ctx context.Context, actor string, new NewKey) (Key, error)
	// ImportKeys is CreateKey for at most MaxImport keys in one transaction, all or none, in the order of the list. Each new
	// key has its own revision, log row and key.import event. A digest of a key of the same account, in force or not, is
	// counted and changes nothing. The error ImportErrors has all mistakes: ErrNotFound without the account; a Conflict if the
	// account is terminated, the id exists, or the digest is a session's or another account's key. It ignores Imported and
	// Limit of the keys.
	ImportKeys(ctx context.Context, actor string, keys []NewKey) (Imported, error)
	Key(ctx context.Context, id string) (Key, error)
	// Keys lists an account's keys. It returns ErrNotFound without the account.
	Keys(ctx context.Context, account string, page Page) (list []Key, next string, err error)
	// RevokeKey revokes a key for good. If account is not "", another account's key is ErrNotFound.
	RevokeKey(ctx context.Context, actor, id, account string) (Key, error)
	// RevokeChain revokes the key and every key of its chain in one transaction. Each key that it revokes has its own
	// revision, log row and key.revoke event. Keys that are revoked already do not change. If account is not "", another
	// account's key is ErrNotFound.
	RevokeChain(ctx context.Context, actor, id, account string) (RevokedChain, error)
	// RollKey replaces a key. The successor has the account, label, scopes and expiry of the old key. The old key is revoked
	// or, with a grace, expires after the grace if it does not expire sooner. Earlier keys of the chain that are in force are
	// revoked, each with its own log row, so that at most two keys of a chain are in force. It returns a Conflict if the key
	// is revoked, expired or replaced already (in this order), or its account is terminated. The limit of keys does not apply.
	// All keys are in the log, the old one with the latest revision. The roll is one event. If account is not "", another
	// account's key is ErrNotFound.
	RollKey(ctx context.Context, actor string, roll Roll) (successor, replaced Key, err error)
	// SetKeyScope grants or removes one scope of this key only: other keys of its chain do not change. A grant to a key of a
	// terminated account, or to one that has credential.MaxScopes scopes, is a Conflict.
	SetKeyScope(ctx context.Context, actor, id, scope string, granted bool) (Key, error)

	// CreateSession writes no log row, because no sidecar can have resolved the session before. It returns ErrNotFound without
	// the account, and a Conflict if it is terminated, or the id or the digest exists.
	CreateSession(ctx context.Context, actor string, new NewSession) (Session, error)
	// EndSession ends a session for good. It returns ErrNotFound if there never was one, or Prune has deleted it.
	EndSession(ctx context.Context, actor, id string) (Session, error)

	// Events lists newest first, of one account and one key if these are not "".
	Events(ctx context.Context, account, key string, page Page) (list []Event, next string, err error)
	// RecordUsage records when keys were used and how often, with the counts in the hour of the report. It raises no revision
	// and writes no event. It ignores unknown digests, and times that are in the future or older than the one on record.
	RecordUsage(ctx context.Context, sidecar string, used []Usage) error
	// KeyUsage lists the hours in which a key was used, latest first. It returns ErrNotFound without the key, and if the key
	// belongs to another account than the span names.
	KeyUsage(ctx context.Context, span UsageSpan, page Page) (list []UsageHour, next string, err error)
}

// Feed is the part of the store that sidecars use.
type Feed interface {
	// Resolve reads the head and, in the same snapshot or later, the facts about each digest, in the order of the digests. It
	// reads the primary: a lagging replica would break the guarantee for a sidecar without a lease.
	Resolve(ctx context.Context, digests []credential.Digest) (Head, []Fact, error)
	// Head returns the end of the log.
	Head(ctx context.Context) (Head, error)
	// Changes returns at most limit changes after the revision, in order and without a gap, with the head of the same
	// snapshot. ErrGone comes with the head too.
	Changes(ctx context.Context, epoch string, after int64, limit int) (Head, []Change, error)
	// Changed returns a channel that is closed when the head, or what sidecars have acknowledged, may have moved since the
	// call. The notification of another process's change may be late or missing, so callers also read each second. Get the
	// channel first, then read, then wait.
	Changed() <-chan struct{}

	// RecordPoll records a sidecar's acknowledgement and lease by Sidecar.Record, before the lease is given. It returns the
	// head of that moment and the lease, which begins at a moment not before the call. The acknowledged revision and the two
	// times never decrease within one epoch.
	//
	// It checks the number first: a Conflict if it is not larger than the one on record, or if the sidecar has left or was
	// forgotten (Sidecar.CheckNumber); then nothing is recorded. It returns ErrGone, with the head, if the revision is -1, the
	// epoch is not the log's, the revision is beyond the head, or no lease can be given. Then only the number is recorded, and
	// only for a sidecar on record and a revision other than -1. It returns ErrFull if the poll would add a sidecar to
	// MaxSidecars.
	//
	// With Leave, no change waits for the sidecar. Its record stays without a lease until its StaleEndsAt, or for Lease +
	// MaxStale if the name is not on record. Until then every poll of that name is a Conflict. If MaxGoneSidecars have left,
	// the record is deleted instead.
	//
	// A change that is committed before the poll is on record is within the head that RecordPoll returns. A change that is
	// committed later sees the poll. An engine must guarantee that one of the two holds for each pair.
	RecordPoll(ctx context.Context, poll Poll) (Head, time.Duration, error)
	// Forget removes the sidecar from those that changes wait for, and has every later poll of it refused, as if it had left.
	// It writes a SidecarForget event and returns the record as it was. It returns ErrNotFound if Sidecars does not list it.
	Forget(ctx context.Context, actor, sidecar string) (Sidecar, error)
	// Sidecars lists those that are not Gone and whose StaleEndsAt has not passed, by name, with the head of the same
	// snapshot. next is "" on the last page.
	Sidecars(ctx context.Context, page Page) (head Head, list []Sidecar, next string, err error)
	// Progress is ProgressOf all sidecars that Sidecars lists, with the head of the same snapshot.
	Progress(ctx context.Context, revision int64) (Head, Progress, error)
	// Leases summarizes the sidecars that hold a lease now, with the head of the same snapshot.
	Leases(ctx context.Context) (Head, Leases, error)

	// Prune deletes log rows older than retention, from the oldest on without a gap, and sidecars and sessions that have been
	// over for longer than that. The newest row always stays. It deletes counts of usage that are older than UsageRetention,
	// of some thousand keys per call: repeated calls reach all keys.
	Prune(ctx context.Context, retention time.Duration) error
	// NewEpoch gives the log another epoch and sets Head.NotBefore to now + wait. It is for a store that was restored from an
	// older copy. It waits for at least as long as the largest lease and stale time that a poll was given, which is on record
	// until it is over and a smaller one is given. NotBefore never decreases: sidecars that are not on record since an earlier
	// restore may still exist. The revision and the sidecars on record do not change.
	NewEpoch(ctx context.Context, wait time.Duration) (Head, error)
}
