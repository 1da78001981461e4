package keycache

import (
	"math"
	"time"

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
	generation uint32 // number of invalidations of the whole cache
	epoch      string // of the log; "" until one is known
	ttlMode    bool

	// The last lease. sent is zero before the first one.
	sent     moment        // when the poll was sent
	lease    time.Duration // counted from sent
	maxStale time.Duration // declared to the key API by the same poll
	ended    bool          // the lease has ended early, its stale time has not
	dropped  bool          // the lease and its stale time have ended early
}

// mode returns the mode at now. A shorter MaxStale counts immediately, a longer one from the poll
// that declares it.
func (s *state) mode(t *Times, now moment) mode {
	if s.ttlMode {
		return ttl
	}
	if s.sent.isZero() || s.dropped {
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
func (s *state) onRecord(now moment) bool {
	return !s.sent.isZero() && leastElapsed(s.sent, now) < s.lease+s.maxStale
}

// maxDrift divides a time into the margin for the drift of both clocks: 1% each. A larger divisor
// breaks the promise of effective_by if a clock drifts more; a smaller one wastes lease.
const maxDrift = 50

// subtractDrift shortens a time that the key API measures too, so that it ends here first.
func subtractDrift(d time.Duration) time.Duration { return d - d/maxDrift }

// entry is the result of a resolve for one digest. Its shard's lock guards it. It takes 136 bytes, of
// which a hit reads the first 104.
type entry struct {
	digest            credential.Digest
	prev, next, chain slot     // in its pool, and in its bucket
	generation        uint32   // of the cache when the resolve was sent
	revision          int64    // of the change log's head in the resolve
	account           *account // nil if not found
	confirmed         moment   // when the resolve was sent
	expires           int64    // when the credential expires, in nanoseconds since 1970; 0: never

	// The times of the last look-up and of the start of the last refresh, by the monotonic clock
	// alone: they bound work, not trust.
	used, refreshed int64

	id     string
	scopes *scopeSet // nil: none

	pool         poolID
	kind         credential.Kind
	state        credential.State
	accountState credential.State
	found        bool
	changed      bool // a change has named the digest since
}

// record returns the facts of the entry.
func (e *entry) record() credential.Record {
	if !e.found {
		return credential.Record{}
	}
	r := credential.Record{
		Kind: e.kind, ID: e.id, State: e.state,
		Account: credential.Account{ID: e.account.id, State: e.accountState},
	}
	if e.expires != 0 {
		r.ExpiresAt = time.Unix(0, e.expires).UTC()
	}
	if e.scopes != nil {
		r.Scopes = e.scopes.scopes
	}
	return r
}

// nanoseconds returns a time in nanoseconds since 1970, 0 for the zero time. A time before 1678 or
// after 2262 becomes the nearest that can be represented, and 1970 the nanosecond before it.
func nanoseconds(t time.Time) int64 {
	switch ns := t.UnixNano(); {
	case t.IsZero():
		return 0
	case !time.Unix(0, ns).Equal(t) && t.Unix() < 0:
		return math.MinInt64
	case !time.Unix(0, ns).Equal(t):
		return math.MaxInt64
	case ns == 0:
		return -1
	default:
		return ns
	}
}

// inForce reports whether a record's credential is in force at now: active, of an active
// account, and not expired.
func inForce(r *credential.Record, now time.Time) bool {
	return r.State == credential.Active && r.Account.State == credential.Active && (r.ExpiresAt.IsZero() || now.Before(r.ExpiresAt))
}

// expired reports whether the credential has expired at now.
func (e *entry) expired(now moment) bool { return e.expires != 0 && now.wall >= e.expires }

// hasToMove reports whether the credential has expired in the pool of those in force.
func (e *entry) hasToMove(now moment) bool { return e.pool == knownPool && e.expired(now) }

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
func (s *state) freshness(e *entry, t *Times, now moment) freshness {
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
	case age >= early && now.mono-e.refreshed >= int64(early/8):
		return refresh
	}
	return fresh
}

// mayServeStale reports whether a stale entry may answer at now, because no resolve had a usable
// result. The shard's lock is held.
func (s *state) mayServeStale(e *entry, t *Times, now moment) bool {
	if s.invalidated(e) {
		return false
	}
	switch s.mode(t, now) {
	case synced:
		return true
	case degraded:
		return e.found
	case ttl:
		denied := e.state == credential.Revoked || e.accountState == credential.Terminated
		return e.found && (denied || elapsed(e.confirmed, now) < t.MaxStale)
	case cold:
	}
	return false
}

// store caches a batch's result for a digest. c.mu is held.
func (c *Cache) store(d credential.Digest, b *batch, revision int64, r sidecarapi.Result) {
	sent := momentOf(b.sentAt)
	e := entry{
		digest: d, revision: revision, generation: b.generation, confirmed: sent,
		used: sent.mono, refreshed: never, pool: unknownPool,
	}
	if rec := &r.Record; r.Outcome == sidecarapi.Found {
		e.found, e.kind, e.id, e.state, e.accountState = true, rec.Kind, rec.ID, rec.State, rec.Account.State
		e.expires, e.account, e.scopes = nanoseconds(rec.ExpiresAt), c.joinAccount(rec.Account.ID), c.joinScopes(rec.Scopes)
		if inForce(rec, time.Now()) {
			e.pool = knownPool
		}
	}
	s := c.pools.of(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.store(e)
}

// moveExpired moves a credential that has expired to the pool of unknown digests.
func (c *Cache) moveExpired(d credential.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, s := momentOf(time.Now()), c.pools.of(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.find(&d); i != 0 && s.at(i).hasToMove(now) {
		s.move(i, unknownPool)
	}
}
