package keystore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// Errors that every engine returns, wrapped or as they are. Any other error means
// that the store cannot be had or that the outcome is unknown; its text may name
// the engine's internals and is for logs only.
var (
	ErrNotFound = errors.New("not found")
	// ErrGone: the epoch differs, the revision asked for is beyond the head, or the
	// log no longer reaches back to it.
	ErrGone = errors.New("the change log does not reach there")
	// ErrFull: MaxSidecars are on record, and the poll would add one.
	ErrFull = errors.New("too many sidecars are on record")
	// ErrCursor: Page.After is not the Next of a page of this same list.
	ErrCursor = errors.New("not a cursor of this list")
)

// Conflict is a change that the state of things forbids. Its text is for the
// caller.
type Conflict struct{ Message string }

// Error implements error.
func (c *Conflict) Error() string { return c.Message }

// Conflictf makes a Conflict.
func Conflictf(format string, args ...any) error {
	return &Conflict{Message: fmt.Sprintf(format, args...)}
}

// Store keeps everything that the key API knows.
//
// Concurrency: all methods may be called at once from many goroutines, and on
// engines that several processes share, from many processes.
//
// Durability: when a mutation returns without error its change, its log rows and
// its audit event have been committed together and survive a crash of the process
// and of the machine. When it returns an error other than a context's nothing of
// it was done; after a context's error, or one of a connection that broke in the middle
// of the commit (its text says so), the outcome is unknown.
//
// Order: revisions are dense (each is its predecessor + 1) and visible in order:
// whoever sees revision n sees every change up to n.
//
// Repetition: a mutation that finds things as it would make them changes nothing,
// writes no event and no log row, and returns the object as it is, with the
// Revision of the change that made it so. That comes before any Conflict that the
// change itself would be.
//
// Times are kept to the microsecond or finer: those from the caller are cut off to
// that, and an object is returned as it will be read.
//
// Deadlines: every call ends soon after its context does, with the context's
// error in the chain.
type Store interface {
	Admin
	Feed

	// Ping tells whether the store can be read now.
	Ping(ctx context.Context) error
	// Close releases everything. No call may be under way or follow.
	Close() error
}

// Admin is the part of the store that operators and owners use. The times that an
// object gets (CreatedAt, RevokedAt, …) are the store's; ids and digests come from
// the caller. Actor is "operator:NAME" or "owner:ACCOUNT".
type Admin interface {
	// CreateAccount: a Conflict if the id exists.
	CreateAccount(ctx context.Context, actor, id, name string) (Account, error)
	Account(ctx context.Context, id string) (Account, error)
	// Accounts lists by creation, oldest first; so do Keys. next is "" on the last page.
	Accounts(ctx context.Context, page Page) (list []Account, next string, err error)
	// SetAccountState terminates (Terminated) or reinstates (Active).
	SetAccountState(ctx context.Context, actor, id string, state credential.State) (Account, error)

	// CreateKey: ErrNotFound without the account; a Conflict if the account is
	// terminated, the id or the digest exists (a session's counts, too), or new.Limit is
	// reached.
	CreateKey(ctx context.Context, actor string, new NewKey) (Key, error)
	// ImportKeys is CreateKey for at most MaxImport keys in one transaction, all or none, in
	// the order of the list: each key that is new has a revision, a log row and a key.import
	// event of its own. A digest that is a key of the same account already, in force or not, stays
	// as it is and is counted. The error ImportErrors tells all that is wrong: ErrNotFound
	// without the account; a Conflict if the account is terminated, the id exists, or the digest is
	// a session's or another account's key. Imported and Limit of the keys are not looked at.
	ImportKeys(ctx context.Context, actor string, keys []NewKey) (Imported, error)
	Key(ctx context.Context, id string) (Key, error)
	// Keys lists an account's keys; ErrNotFound without the account.
	Keys(ctx context.Context, account string, page Page) (list []Key, next string, err error)
	// RevokeKey revokes for good. With account not "", another account's key is ErrNotFound.
	RevokeKey(ctx context.Context, actor, id, account string) (Key, error)
	// RevokeChain revokes the key and every key of its chain, in one transaction. Each key that
	// it revokes has its own revision, log row and key.revoke event; keys that are revoked
	// already stay as they are. With account not "", another account's key is ErrNotFound.
	RevokeChain(ctx context.Context, actor, id, account string) (RevokedChain, error)
	// RollKey replaces a key: the successor has its account, label, scopes and
	// expiry; the old one is revoked, or with a grace expires after it if it would
	// not sooner. Earlier keys of the chain that are in force are revoked, each with its own
	// log row, so that at most two keys of a chain are in force. A Conflict if the key is
	// revoked, expired or replaced already (in this order), or its account is
	// terminated; allowed at the limit of keys. All keys are in the log, the old one with the
	// latest revision; the roll is one event. With account not "", another account's key is
	// ErrNotFound.
	RollKey(ctx context.Context, actor string, roll Roll) (successor, replaced Key, err error)
	// SetKeyScope grants or takes away one scope, of this key alone: other keys of its chain
	// stay as they are. A grant to a key of a terminated account, or to one that has
	// credential.MaxScopes scopes, is a Conflict.
	SetKeyScope(ctx context.Context, actor, id, scope string, granted bool) (Key, error)

	// CreateSession writes no log row: nobody can have asked for it before.
	// ErrNotFound without the account; a Conflict if it is terminated, or the id or the
	// digest exists.
	CreateSession(ctx context.Context, actor string, new NewSession) (Session, error)
	// EndSession ends it for good; ErrNotFound if there never was one, or Prune took it.
	EndSession(ctx context.Context, actor, id string) (Session, error)

	// Events lists newest first, of one account and one key where these are not "".
	Events(ctx context.Context, account, key string, page Page) (list []Event, next string, err error)
	// RecordUsage notes when keys were used and how often, the counts in the hour of the
	// report. It raises no revision and writes no event; unknown digests are passed over, and
	// times that are older than the one on record or in the future do not count.
	RecordUsage(ctx context.Context, sidecar string, used []Usage) error
	// KeyUsage lists the hours in which a key was used, the latest first. ErrNotFound
	// without the key, and if it is another account's than the span says.
	KeyUsage(ctx context.Context, span UsageSpan, page Page) (list []UsageHour, next string, err error)
}

// NewKey is a key to be created.
type NewKey struct {
	ID, Account, Label, Hint string
	Digest                   credential.Digest
	Scopes                   credential.Scopes
	ExpiresAt                time.Time // zero: never
	Imported                 bool      // the event is key.import, not key.mint
	Limit                    int       // at most so many keys neither revoked nor expired; 0: no limit
}

// Roll is a key to be replaced by a successor.
type Roll struct {
	ID      string            // the key to replace
	Account string            // whose it must be, "" for anyone's
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

// NewSession is a session to be created.
type NewSession struct {
	ID, Account string
	Digest      credential.Digest
	TTL         time.Duration
}

// Feed is the part of the store that sidecars use.
type Feed interface {
	// Resolve reads the head and then, in the same snapshot or later, the facts about
	// each digest, in their order. It reads the primary: a lagging replica would break
	// the proof for a sidecar without a lease.
	Resolve(ctx context.Context, digests []credential.Digest) (Head, []Fact, error)
	// Head returns the end of the log.
	Head(ctx context.Context) (Head, error)
	// Changes returns at most limit changes after the revision, in order and without a
	// gap, with the head of the same snapshot; ErrGone (with the head, too) as told there.
	Changes(ctx context.Context, epoch string, after int64, limit int) (Head, []Change, error)
	// Changed returns a channel that is closed when the head, or what sidecars have
	// acknowledged, may have moved since the call. It only wakes: another process's
	// change may be told late or not at all, so whoever waits looks for himself each second
	// as well. Take the channel first, then look, then wait.
	Changed() <-chan struct{}

	// RecordPoll records a sidecar's acknowledgement and lease, as Sidecar.Record has it, before
	// the lease is given away. It returns the head of that moment and the lease that may
	// be given; it runs from a moment not before the call. Neither the acknowledged revision nor
	// the two times ever go back within one epoch.
	//
	// First the number is checked: a Conflict if it is not larger than the one on record, or
	// if the sidecar has left or was forgotten (Sidecar.CheckNumber); then nothing is recorded.
	// ErrGone (with the head, too) if the revision is -1, the epoch is not the log's, the
	// revision is beyond the head, or no lease may be given. Then nothing is recorded but
	// the number, and that only for a sidecar on record and a revision other than -1. ErrFull
	// if the poll would add a sidecar to MaxSidecars.
	//
	// With Leave the record stays without a lease until its StaleEndsAt, for a name that is not
	// on record for Lease + MaxStale, and no change waits for it. Every poll of that name is
	// a Conflict until then. If MaxGoneSidecars have left, the record is dropped instead.
	//
	// A change that is committed before the poll is on record is within the head that
	// it returns; one that is committed later sees the poll: of those two no engine may
	// miss both.
	RecordPoll(ctx context.Context, poll Poll) (Head, time.Duration, error)
	// Forget has no change wait for the sidecar any longer, and every later poll of it
	// refused, as if it had left. It writes a SidecarForget event. It returns the record as it
	// was; ErrNotFound if Sidecars does not list it.
	Forget(ctx context.Context, actor, sidecar string) (Sidecar, error)
	// Sidecars lists those that are not Gone and whose StaleEndsAt has not passed, by name, with the
	// head of the same snapshot. next is "" on the last page.
	Sidecars(ctx context.Context, page Page) (head Head, list []Sidecar, next string, err error)
	// Progress is ProgressOf all that Sidecars lists, with the head of the same snapshot.
	Progress(ctx context.Context, revision int64) (Head, Progress, error)
	// Leases counts the sidecars that hold a lease now.
	Leases(ctx context.Context) (int, error)

	// Prune deletes log rows older than retention, from the oldest on without a gap, and
	// sidecars and sessions whose time has been over for longer than that. The newest row
	// always stays. Of the counts of usage, those that are older than UsageRetention go, of
	// some thousand keys at a time: all keys have their turn if it is called again and again.
	Prune(ctx context.Context, retention time.Duration) error
	// NewEpoch gives the log another identity and sets Head.NotBefore to now + wait:
	// for a store that was put back from an older copy. It waits for at least as long as the
	// largest lease and stale time that a poll was given, which is on record until it is over and
	// a smaller one is given. NotBefore never goes back: sidecars that are not on record since an
	// earlier restore may still exist. The revision goes on from where it is, and the sidecars on
	// record stay.
	NewEpoch(ctx context.Context, wait time.Duration) (Head, error)
}
