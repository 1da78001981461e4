// Package keycache returns the record of a digest, from memory if the memory may answer, else
// from a key API. It caches facts, never verdicts.
//
// # What may answer
//
// Credentials in force live in one bounded LRU; unknown digests, and revoked or expired
// credentials and those of terminated accounts, live in another (pool.go). So a flood of
// neither evicts one good key. Whether an entry may answer depends on the mode (state.go):
// under a lease all that no change has named; after its end what was revalidated a moment
// ago, then, if nothing can be reached, the credentials that were found, until the moment
// that the key API has on record for this sidecar; after that, and before the first lease,
// nothing. A key API without a change log gives times to live, if the options allow that.
//
// # What keeps it true
//
// The follower (follow.go) long-polls the change log. One poll is cursor, acknowledgement,
// heartbeat and lease. The lease is counted from the moment of sending, less a margin for
// the drift of both clocks: it ends here before it ends there. Changes are applied before
// they are acknowledged (apply.go). A start requests the head alone, and only the poll
// after it acknowledges. Each poll has a larger number than the one before, so that one
// that arrives late changes nothing; if the key API refuses a number, the follower takes
// a new name and relies on nothing cached.
//
// One lock (Cache.mu) orders changes and fills: a fill that was requested before a change that
// names it is dropped and requested again, for all that wait on it. When the log is replaced
// or the follower starts over, everything cached is invalidated (begin.go): it is kept and
// revalidated in batches, but does not answer before that.
//
// # Resolves
//
// There is one load for each digest, detached from its callers (load.go); loads of one
// millisecond share one resolve. Look-ups of digests that are not cached pass a token bucket
// (admit.go). While the key API fails, a breaker (breaker.go) answers in its place.
//
// # Logs
//
// Log lines are written by a goroutine of their own (journal.go): a log writer that blocks delays
// neither checks nor polls.
//
// # Cost
//
// A hit takes one lock of one of up to 64 shards, two atomic reads and no allocation. A
// change of one credential is a few map look-ups; a change of an account is one store,
// for any number of keys: entries join their account when they are looked up.
package keycache
