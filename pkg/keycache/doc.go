// Package keycache answers who a digest belongs to, from memory where that is
// sound, else from a key API. It caches facts, never verdicts.
//
// # What may answer
//
// Known credentials and unknown digests live in two bounded LRUs (pool.go), so that
// a flood of random keys cannot evict one good key. Whether an entry may answer
// depends on the mode (state.go): under a lease all that no change has named; after
// its end what was confirmed a moment ago, then, if nothing can be reached, what was
// known to be good, until the moment that the key API has on record for this
// sidecar; after that, and before the first lease, nothing. A key API without a
// change log gives plain times to live.
//
// # What keeps it true
//
// The follower (follow.go) long-polls the change log. One poll is cursor,
// acknowledgement, heartbeat and lease. The lease is counted from the moment of
// sending, less a margin for the drift of both clocks: it ends here before it ends
// there. Changes are applied before they are acknowledged. One lock (Cache.mu)
// orders changes and fills: a fill that was asked for before a change that names it
// is dropped and asked again, for all who wait on it. When the log is replaced or
// begun anew everything cached is suspect (its generation is over): kept, confirmed
// in batches, but no answer before that.
//
// # What asks
//
// One load for each digest, detached from its callers (load.go); loads of one
// millisecond travel in one resolve. Look-ups of digests that are not known to be
// good pass a limiter (admit.go). While the key API fails, a breaker (breaker.go)
// answers at once in its place.
//
// # Cost
//
// A hit takes one lock of one of up to 64 shards, two atomic reads and no allocation. A
// change of one credential is a few map look-ups; a change of an account is one store,
// whatever the number of its keys: entries join their account when they are asked.
package keycache
