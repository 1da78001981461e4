package keycache

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// entry is what one resolve told about one digest. All but its last three fields are
// immutable; those belong to the shard's lock.
type entry struct {
	rec        credential.Record
	found      bool
	revision   int64     // of the log's head when it was told
	generation uint64    // of the cache when it was requested; in another one it does not answer
	confirmed  time.Time // when the resolve was sent
	account    *account  // nil if not found

	changed   bool      // a change has named it since
	used      time.Time // last asked for
	refreshed time.Time // last time that a refresh was begun for it
}

// account joins the entries of one account: a change of it reaches all of them by one
// store.
type account struct {
	changed atomic.Int64 // revision of its last change in this generation
	entries int          // that point here; under Cache.mu
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

// denied reports whether the credential was revoked, or its account terminated.
func (e *entry) denied() bool {
	return e.rec.State == credential.Revoked || e.rec.Account.State == credential.Terminated
}

// outdated tells whether a change of the credential or of its account has come since e
// was told. The shard's lock is held.
func (e *entry) outdated() bool {
	return e.changed || e.account != nil && e.account.changed.Load() > e.revision
}

// shard is one part of both pools: known holds credentials in force, unknown the rest. So
// neither unknown digests nor revoked keys evict a good one. simplelru and not lru: looking at an entry and
// noting its use are one step under one lock.
type shard struct {
	mu      sync.Mutex
	known   *pool
	unknown *pool
}

type pool = simplelru.LRU[credential.Digest, *entry]

const (
	maxShards = 64
	// minShard keeps the shards of a small cache large enough that chance does not fill
	// one of them while others are empty.
	minShard = 1024
)

type pools struct{ shards []shard }

// newPools makes pools of at most so many entries. evicted is called for every entry that
// leaves its pool, with the shard's lock held.
func newPools(known, unknown int, evicted func(*entry)) pools {
	n := 1
	for n < maxShards && min(known, unknown)/(2*n) >= minShard {
		n *= 2
	}
	p := pools{shards: make([]shard, n)}
	for i := range p.shards {
		leaves := func(_ credential.Digest, e *entry) { evicted(e) }
		// The sizes are at least 1, the only thing that NewLRU can refuse.
		p.shards[i].known, _ = simplelru.NewLRU(max(1, known/n), leaves)
		p.shards[i].unknown, _ = simplelru.NewLRU(max(1, unknown/n), leaves)
	}
	return p
}

// of returns the digest's shard. Digests are uniformly distributed: they are hashes.
func (p pools) of(d credential.Digest) *shard { return &p.shards[int(d[0])%len(p.shards)] }

// use returns the digest's entry, nil if there is none, and notes its use. Known reports that
// it is in the pool of known credentials.
func (s *shard) use(d credential.Digest, now time.Time) (e *entry, known bool) {
	e, known = s.known.Get(d)
	if !known {
		var ok bool
		if e, ok = s.unknown.Get(d); !ok {
			return nil, false
		}
	}
	e.used = now
	return e, known
}

// peek returns the digest's entry, nil if there is none.
func (s *shard) peek(d credential.Digest) *entry {
	if e, ok := s.known.Peek(d); ok {
		return e
	}
	e, _ := s.unknown.Peek(d)
	return e
}

// put stores an entry in the pool where it belongs at now, in place of the one that the
// digest has in either pool.
func (s *shard) put(d credential.Digest, e *entry, now time.Time) {
	if old := s.peek(d); old != nil {
		e.used, e.refreshed = old.used, old.refreshed
	}
	// Remove, because Add calls no evicted for an entry that it replaces.
	s.known.Remove(d)
	s.unknown.Remove(d)
	if e.found && inForce(&e.rec, now) {
		s.known.Add(d, e)
	} else {
		s.unknown.Add(d, e)
	}
}

// invalidate has the digest's entry answer no more if it is older than the revision, and
// returns it. It keeps its place, so that its revalidation takes no token.
func (s *shard) invalidate(d credential.Digest, revision int64) *entry {
	e := s.peek(d)
	if e == nil || e.revision >= revision {
		return nil
	}
	e.changed = true
	return e
}

// sizes counts both pools.
func (p pools) sizes() (known, unknown int) {
	for i := range p.shards {
		s := &p.shards[i]
		s.mu.Lock()
		known += s.known.Len()
		unknown += s.unknown.Len()
		s.mu.Unlock()
	}
	return known, unknown
}
