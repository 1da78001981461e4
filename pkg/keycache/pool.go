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
	generation uint64    // of the cache when it was asked for; another one is suspect
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

// outdated tells whether a change of the credential or of its account has come since e
// was told. The shard's lock is held.
func (e *entry) outdated() bool {
	return e.changed || e.account != nil && e.account.changed.Load() > e.revision
}

// shard is one part of both pools. simplelru and not lru: looking at an entry and
// noting its use are one step under one lock.
type shard struct {
	mu      sync.Mutex
	known   *simplelru.LRU[credential.Digest, *entry]
	unknown *simplelru.LRU[credential.Digest, *entry]
}

const (
	maxShards = 64
	// minShard keeps the shards of a small cache large enough that chance does not fill
	// one of them while others are empty.
	minShard = 1024
)

type pools struct{ shards []shard }

// newPools makes pools of at most so many entries. evicted is called with the shard's
// lock held, for every known entry that leaves its pool.
func newPools(known, unknown int, evicted func(*entry)) pools {
	n := 1
	for n < maxShards && min(known, unknown)/(2*n) >= minShard {
		n *= 2
	}
	p := pools{shards: make([]shard, n)}
	for i := range p.shards {
		// The sizes are at least 1, the only thing that NewLRU can refuse.
		p.shards[i].known, _ = simplelru.NewLRU(max(1, known/n), func(_ credential.Digest, e *entry) { evicted(e) })
		p.shards[i].unknown, _ = simplelru.NewLRU[credential.Digest, *entry](max(1, unknown/n), nil)
	}
	return p
}

// of returns the digest's shard. Digests are uniformly distributed: they are hashes.
func (p pools) of(d credential.Digest) *shard { return &p.shards[int(d[0])%len(p.shards)] }

// use returns the digest's entry and notes that it was asked for.
func (s *shard) use(d credential.Digest, now time.Time) (*entry, bool) {
	e, ok := s.known.Get(d)
	if !ok {
		e, ok = s.unknown.Get(d)
	}
	if ok {
		e.used = now
	}
	return e, ok
}

// put stores an entry in the pool where it belongs and takes it out of the other.
func (s *shard) put(d credential.Digest, e *entry) {
	into, other := s.known, s.unknown
	if !e.found {
		into, other = other, into
	}
	if old, ok := s.known.Peek(d); ok {
		e.used, e.refreshed = old.used, old.refreshed
		s.known.Remove(d) // so that evicted hears of the entry that e replaces
	}
	other.Remove(d)
	into.Add(d, e)
}

// outdate sees to it that the digest's entry, if it was told before the revision, answers
// no more, and returns it. A known one keeps its place: it is not asked for as one that
// was never seen.
func (s *shard) outdate(d credential.Digest, revision int64) *entry {
	if e, ok := s.known.Peek(d); ok && e.revision < revision {
		e.changed = true
		return e
	}
	if e, ok := s.unknown.Peek(d); ok && e.revision < revision {
		s.unknown.Remove(d)
		return e
	}
	return nil
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
