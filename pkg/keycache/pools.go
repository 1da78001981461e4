package keycache

import (
	"hash/maphash"
	"iter"
	"sync"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// shard is one part of both pools: two LRU lists over one table of entries. Entries are in chunks,
// and refer to each other by numbers of 4 bytes in place of pointers. That takes 140 bytes for an
// entry; golang-lru takes 160 beside the entry, and twice as many objects for the garbage collector.
type shard struct {
	mu      sync.Mutex
	seed    maphash.Seed // makes the bucket of a digest unpredictable, so a client cannot fill one
	buckets []slot       // first entry of each, a power of two
	chunks  []*[chunkSize]entry
	free    slot // first free entry; they are linked by next
	pools   [2]pool
	leave   func(*entry)
}

// slot is the number of an entry in its shard: chunk × chunkSize + place. The numbers 0 and 1 are
// no entries but the heads of the two lists, which are rings: the most recently used entry is next
// to the head. In a bucket and in the list of free entries 0 is the end.
type slot uint32

// chunkSize is the number of entries that are allocated together: 16 KiB, a size class of Go's.
// Smaller costs more objects; larger wastes more in the last chunk of each shard.
const chunkSize = 120

// poolID is one of the pools, and the slot of its list's head.
type poolID uint8

const (
	knownPool   poolID = iota // credentials in force
	unknownPool               // all other digests
)

var poolNames = [...]string{knownPool: "known", unknownPool: "unknown"}

// pool is one list of a shard. The shard's lock guards it.
type pool struct{ size, limit, evicted int }

const (
	// maxShards bounds the shards. Smaller has cores wait for each other's locks; larger
	// divides a cache into smaller parts.
	maxShards = 64
	// minShard is the least size of a shard if there are several. Smaller evicts entries of a
	// full shard while others have room.
	minShard = 1024
)

type pools []shard

// newPools makes pools of at most so many entries. leave is called for every entry that leaves
// its shard, with the shard's lock held.
func newPools(known, unknown int, leave func(*entry)) pools {
	n := 1
	for n < maxShards && min(known, unknown)/(2*n) >= minShard {
		n *= 2
	}
	p, seed := make(pools, n), maphash.MakeSeed()
	for i := range p {
		s := &p[i]
		s.seed, s.leave, s.buckets = seed, leave, make([]slot, 8)
		s.pools = [2]pool{knownPool: {limit: max(1, known/n)}, unknownPool: {limit: max(1, unknown/n)}}
		s.grow()
		for _, head := range []slot{slot(knownPool), slot(unknownPool)} {
			s.at(head).prev, s.at(head).next = head, head
		}
	}
	return p
}

// of returns the digest's shard. Digests are hashes, so they are uniformly distributed.
func (p pools) of(d credential.Digest) *shard { return &p[int(d[0])%len(p)] }

// sum adds the numbers of a pool in all shards.
func (p pools) sum(id poolID) (total pool) {
	for i := range p {
		s := &p[i]
		s.mu.Lock()
		part := s.pools[id]
		s.mu.Unlock()
		total.size, total.limit, total.evicted = total.size+part.size, total.limit+part.limit, total.evicted+part.evicted
	}
	return total
}

// at returns an entry, which is valid while the lock is held.
func (s *shard) at(i slot) *entry { return &s.chunks[i/chunkSize][i%chunkSize] }

// bucket returns the digest's bucket.
func (s *shard) bucket(d *credential.Digest) *slot {
	return &s.buckets[int(maphash.Bytes(s.seed, d[:]))&(len(s.buckets)-1)]
}

// find returns the slot of the digest's entry, 0 if there is none.
func (s *shard) find(d *credential.Digest) slot {
	i := *s.bucket(d)
	for i != 0 && s.at(i).digest != *d {
		i = s.at(i).chain
	}
	return i
}

// entry returns the digest's entry, nil if there is none, without noting a use.
func (s *shard) entry(d credential.Digest) *entry {
	if i := s.find(&d); i != 0 {
		return s.at(i)
	}
	return nil
}

// get returns the digest's entry, nil if there is none, and notes its use.
func (s *shard) get(d credential.Digest, now moment) *entry {
	i := s.find(&d)
	if i == 0 {
		return nil
	}
	e := s.at(i)
	e.used = now.mono
	if e.prev != slot(e.pool) {
		s.unlink(e)
		s.link(i, e)
	}
	return e
}

// store keeps an entry in its pool, in place of the digest's earlier one.
func (s *shard) store(e entry) {
	if i := s.find(&e.digest); i != 0 {
		e.used, e.refreshed = s.at(i).used, s.at(i).refreshed
		s.remove(i)
	}
	if s.pools[knownPool].size+s.pools[unknownPool].size == len(s.buckets) {
		s.rehash()
	}
	if s.free == 0 {
		s.grow()
	}
	i, b := s.free, s.bucket(&e.digest)
	to := s.at(i)
	s.free = to.next
	e.chain, *b = *b, i
	*to = e
	s.insert(i, to)
}

// move moves an entry to another pool.
func (s *shard) move(i slot, to poolID) {
	e := s.at(i)
	s.unlink(e)
	e.pool = to
	s.insert(i, e)
}

// insert links an entry into its pool, and evicts another one if the pool is full.
func (s *shard) insert(i slot, e *entry) {
	s.link(i, e)
	if p := &s.pools[e.pool]; p.size > p.limit {
		p.evicted++
		s.remove(s.at(slot(e.pool)).prev)
	}
}

// remove frees an entry.
func (s *shard) remove(i slot) {
	e := s.at(i)
	s.unlink(e)
	b := s.bucket(&e.digest)
	for *b != i {
		b = &s.at(*b).chain
	}
	*b = e.chain
	s.leave(e)
	*e = entry{next: s.free}
	s.free = i
}

func (s *shard) link(i slot, e *entry) {
	head := s.at(slot(e.pool))
	e.prev, e.next = slot(e.pool), head.next
	s.at(head.next).prev = i
	head.next = i
	s.pools[e.pool].size++
}

func (s *shard) unlink(e *entry) {
	s.at(e.prev).next = e.next
	s.at(e.next).prev = e.prev
	s.pools[e.pool].size--
}

// grow adds a chunk of free entries.
func (s *shard) grow() {
	first, chunk := slot(len(s.chunks)*chunkSize), new([chunkSize]entry)
	s.chunks = append(s.chunks, chunk)
	for i := range slot(chunkSize) {
		if first+i > slot(unknownPool) {
			chunk[i].next = s.free
			s.free = first + i
		}
	}
}

// rehash doubles the buckets. It takes some 30 ns for each entry of the shard.
func (s *shard) rehash() {
	s.buckets = make([]slot, 2*len(s.buckets))
	for _, id := range []poolID{knownPool, unknownPool} {
		for i, e := range s.all(id) {
			b := s.bucket(&e.digest)
			e.chain, *b = *b, i
		}
	}
}

// all returns the entries of a pool, the least recently used first.
func (s *shard) all(id poolID) iter.Seq2[slot, *entry] {
	return func(yield func(slot, *entry) bool) {
		head := slot(id)
		for i := s.at(head).prev; i != head; i = s.at(i).prev {
			if !yield(i, s.at(i)) {
				return
			}
		}
	}
}

// hotFor is how long after its last look-up a credential counts as hot. A change resolves the hot
// credentials that it names before a check needs them. Larger resolves more of them.
const hotFor = time.Minute

// invalidate marks the digest's entry as changed if it is older than the revision, and reports
// whether it is hot. The entry stays, so that revalidating it takes no token.
func (s *shard) invalidate(d credential.Digest, revision int64, now moment) (hot bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entry(d)
	if e == nil || e.revision >= revision {
		return false
	}
	e.changed = true
	return e.found && now.mono-e.used < int64(hotFor)
}
