package keycache

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// Times are the configured bounds of trust.
type Times struct {
	MaxAge       time.Duration // with a lease: entries are revalidated at least this often
	ConfirmAfter time.Duration // without a lease: entries are revalidated this often
	MaxStale     time.Duration // how long entries may answer after the end of the last lease
}

// mode says which entries may answer.
type mode uint8

const (
	cold     mode = iota // no cached entry answers: no lease yet, its stale time is over, or it was dropped
	synced               // the lease is live
	degraded             // the lease has ended, its stale time has not
	ttl                  // time-to-live mode: the key API offers no change log
)

var modeNames = [...]string{cold: "cold", synced: "synced", degraded: "degraded", ttl: "ttl"}

// state is the follower's knowledge of the change log. It is immutable and replaced as a whole.
type state struct {
	generation uint64 // number of invalidations of the whole cache
	epoch      string // of the log; "" until one is known
	ttlMode    bool

	// The last lease. sent is zero before the first one.
	sent     time.Time     // when the poll was sent
	lease    time.Duration // counted from sent
	maxStale time.Duration // declared to the key API by the same poll
	ended    bool          // the lease has ended early, its stale time has not
	dropped  bool          // the lease and its stale time have ended early
}

// mode returns the mode at now. A shorter MaxStale counts immediately, a longer one from the poll
// that declares it.
func (s *state) mode(t *Times, now time.Time) mode {
	if s.ttlMode {
		return ttl
	}
	if s.sent.IsZero() || s.dropped {
		return cold
	}
	passed := elapsed(s.sent, now)
	if !s.ended && passed < subtractDrift(s.lease) {
		return synced
	}
	if maxStale := min(s.maxStale, t.MaxStale); maxStale > 0 && passed < subtractDrift(s.lease+maxStale) {
		return degraded
	}
	return cold
}

// onRecord reports whether the key API may still wait for this sidecar at now, because of the
// last lease. The later end counts, by either clock.
func (s *state) onRecord(now time.Time) bool {
	return !s.sent.IsZero() && min(now.Sub(s.sent), now.Round(0).Sub(s.sent.Round(0))) < s.lease+s.maxStale
}

// maxDrift divides a time into the margin for the drift of both clocks: 1% each. A larger divisor
// breaks the promise of effective_by if a clock drifts more; a smaller one wastes lease.
const maxDrift = 50

// subtractDrift shortens a time that the key API measures too, so that it ends here first.
func subtractDrift(d time.Duration) time.Duration { return d - d/maxDrift }

// elapsed is the time from a moment until now, by the monotonic or the wall clock, whichever is
// longer. Linux's monotonic clock stops while a machine is suspended, and the wall clock may
// be set. Too long a time only ends trust early.
func elapsed(since, now time.Time) time.Duration {
	return max(now.Sub(since), now.Round(0).Sub(since.Round(0)))
}

// entry is the result of a resolve for one digest. Its shard's lock guards the last three
// fields; the others are immutable.
type entry struct {
	rec        credential.Record
	found      bool
	revision   int64     // of the change log's head in the resolve
	generation uint64    // of the cache when the resolve was sent
	confirmed  time.Time // when the resolve was sent
	account    *account  // nil if not found

	changed   bool      // a change has named the digest since
	used      time.Time // last look-up
	refreshed time.Time // start of the last refresh
}

// account is shared by the entries of one account: one store invalidates all of them.
type account struct {
	changed atomic.Int64 // revision of its last change in this generation
	entries int          // that refer to it; Cache.mu guards it
}

// inForce reports whether a record's credential is in force at now: active, of an active
// account, and not expired.
func inForce(r *credential.Record, now time.Time) bool {
	return r.State == credential.Active && r.Account.State == credential.Active && (r.ExpiresAt.IsZero() || now.Before(r.ExpiresAt))
}

// expired reports whether the credential has expired at now.
func (e *entry) expired(now time.Time) bool {
	return !e.rec.ExpiresAt.IsZero() && !now.Before(e.rec.ExpiresAt)
}

// freshness says what a look-up does with an entry.
type freshness uint8

const (
	stale   freshness = iota // resolve before answering
	refresh                  // answer, and resolve in the background
	fresh                    // answer
)

// invalidated reports whether the entry was invalidated: by a change of its credential or account,
// or with all others. The shard's lock is held.
func (s *state) invalidated(e *entry) bool {
	return e.generation != s.generation || e.changed || e.account != nil && e.account.changed.Load() > e.revision
}

// freshness returns the entry's freshness at now. The shard's lock is held.
func (s *state) freshness(e *entry, t *Times, now time.Time) freshness {
	if s.invalidated(e) {
		return stale
	}
	var limit, early time.Duration
	switch s.mode(t, now) {
	case synced:
		limit, early = t.MaxAge, t.MaxAge-t.MaxAge/8
	case degraded, ttl:
		limit, early = t.ConfirmAfter, t.ConfirmAfter/2
	case cold:
		return stale
	}
	switch age := elapsed(e.confirmed, now); {
	case age >= limit:
		return stale
	case age >= early && elapsed(e.refreshed, now) >= early/8:
		return refresh
	}
	return fresh
}

// mayServeStale reports whether a stale entry may answer at now, because no resolve had a usable
// result. The shard's lock is held.
func (s *state) mayServeStale(e *entry, t *Times, now time.Time) bool {
	if s.invalidated(e) {
		return false
	}
	switch s.mode(t, now) {
	case synced:
		return true
	case degraded:
		return e.found
	case ttl:
		denied := e.rec.State == credential.Revoked || e.rec.Account.State == credential.Terminated
		return e.found && (denied || elapsed(e.confirmed, now) < t.MaxStale)
	case cold:
	}
	return false
}

// shard is one part of both pools: known holds credentials in force, unknown all other entries. It
// uses simplelru, so that one lock covers reading an entry and noting its use.
type shard struct {
	mu      sync.Mutex
	known   *pool
	unknown *pool
}

type pool = simplelru.LRU[credential.Digest, *entry]

const (
	// maxShards bounds the shards. Smaller has cores wait for each other's locks; larger
	// divides a cache into smaller parts.
	maxShards = 64
	// minShard is the least size of a shard if there are several. Smaller evicts entries of a
	// full shard while others have room.
	minShard = 1024
)

type pools []shard

// newPools makes pools of at most so many entries. evicted is called for every entry that
// leaves its pool, with the shard's lock held.
func newPools(known, unknown int, evicted func(*entry)) pools {
	n := 1
	for n < maxShards && min(known, unknown)/(2*n) >= minShard {
		n *= 2
	}
	p := make(pools, n)
	onEvict := func(_ credential.Digest, e *entry) { evicted(e) }
	for i := range p {
		// NewLRU fails for sizes below 1 only.
		p[i].known, _ = simplelru.NewLRU(max(1, known/n), onEvict)
		p[i].unknown, _ = simplelru.NewLRU(max(1, unknown/n), onEvict)
	}
	return p
}

// of returns the digest's shard. Digests are hashes, so they are uniformly distributed.
func (p pools) of(d credential.Digest) *shard { return &p[int(d[0])%len(p)] }

// sizes counts the entries of both pools.
func (p pools) sizes() (known, unknown int) {
	for i := range p {
		s := &p[i]
		s.mu.Lock()
		known += s.known.Len()
		unknown += s.unknown.Len()
		s.mu.Unlock()
	}
	return known, unknown
}

// get returns the digest's entry, nil if there is none, and notes its use. Known reports that
// it is in the pool of known credentials.
func (s *shard) get(d credential.Digest, now time.Time) (e *entry, known bool) {
	if e, known = s.known.Get(d); !known {
		e, _ = s.unknown.Get(d)
	}
	if e != nil {
		e.used = now
	}
	return e, known
}

// entry returns the digest's entry, nil if there is none, without noting a use.
func (s *shard) entry(d credential.Digest) *entry {
	if e, ok := s.known.Peek(d); ok {
		return e
	}
	e, _ := s.unknown.Peek(d)
	return e
}

// store keeps an entry in the pool where it belongs at now, in place of the digest's earlier one.
func (s *shard) store(d credential.Digest, e *entry, now time.Time) {
	if old := s.entry(d); old != nil {
		e.used, e.refreshed = old.used, old.refreshed
	}
	// Remove, because Add does not call evicted for an entry that it replaces.
	s.known.Remove(d)
	s.unknown.Remove(d)
	if e.found && inForce(&e.rec, now) {
		s.known.Add(d, e)
	} else {
		s.unknown.Add(d, e)
	}
}

// hotFor is how long after its last look-up a credential counts as hot. A change resolves the hot
// credentials that it names before a check needs them. Larger resolves more of them.
const hotFor = time.Minute

// invalidate marks the digest's entry as changed if it is older than the revision, and reports
// whether it is hot. The entry stays, so that revalidating it takes no token.
func (s *shard) invalidate(d credential.Digest, revision int64, now time.Time) (hot bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entry(d)
	if e == nil || e.revision >= revision {
		return false
	}
	e.changed = true
	return e.found && elapsed(e.used, now) < hotFor
}

// store caches a batch's result for a digest. c.mu is held.
func (c *Cache) store(d credential.Digest, b *batch, revision int64, r sidecarapi.Result) {
	e := &entry{
		rec:        r.Record,
		found:      r.Outcome == sidecarapi.Found,
		revision:   revision,
		generation: b.generation,
		confirmed:  b.sentAt,
		used:       b.sentAt,
	}
	if e.found {
		e.account = c.join(r.Record.Account.ID)
	}
	s := c.pools.of(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.store(d, e, time.Now())
}

// moveExpired moves a credential that has expired to the pool of unknown digests.
func (c *Cache) moveExpired(d credential.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, s := time.Now(), c.pools.of(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.known.Peek(d); ok && e.expired(now) {
		e.account.entries++ // because store removes the entry before it adds it
		s.store(d, e, now)
	}
}

// join returns the account for a new entry. c.mu is held.
func (c *Cache) join(id string) *account {
	a := c.accounts[id]
	if a == nil {
		a = &account{}
		c.accounts[id] = a
	}
	a.entries++
	return a
}

// evicted is called for every entry that leaves a pool. c.mu is held.
func (c *Cache) evicted(e *entry) {
	if e.account == nil {
		return
	}
	if e.account.entries--; e.account.entries == 0 {
		delete(c.accounts, e.rec.Account.ID)
	}
}
