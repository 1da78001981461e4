package keycache

import (
	"cmp"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// invalidateAll invalidates every entry and starts revalidating them. The lease ends, and the log
// continues at the epoch and the revision. c.mu is held.
func (c *Cache) invalidateAll(epoch string, revision int64) {
	next := *c.state.Load()
	next.generation++
	next.epoch = epoch
	next.ended = true
	c.revision = revision
	for _, a := range c.accounts {
		a.changed.Store(0) // revisions of two logs cannot be compared
	}
	c.state.Store(&next)
	c.metrics.invalidations.Inc()
	if !c.closed {
		c.spawn(func() { c.revalidate(next.generation) })
	}
}

// dropLease ends the last lease and its stale time, so that no cached entry answers until the
// next lease. By the clock they may be over, but a clock can be set back. c.mu is held.
func (c *Cache) dropLease() {
	next := *c.state.Load()
	next.dropped = true
	c.state.Store(&next)
}

// epochMismatch handles a resolve of an epoch that is not followed: the log may have been
// replaced, so no cached entry answers until the follower has polled. c.mu is held.
func (c *Cache) epochMismatch(epoch string, revision int64) {
	if c.pendingEpoch != nil && c.pendingEpoch.Epoch == epoch {
		return
	}
	c.pendingEpoch = &sidecarapi.Gone{Epoch: epoch, Revision: revision}
	c.invalidateAll(c.state.Load().epoch, c.revision)
	c.wakeFollower()
}

const (
	// revalidateSpread bounds the random delay before everything is revalidated. Smaller has
	// sidecars that lost the same log send their resolves at the same moment.
	revalidateSpread = 100 * time.Millisecond
	// revalidatePause bounds the random pause between two batches. Smaller sends the key API
	// larger bursts; larger has more checks wait for a resolve.
	revalidatePause = 20 * time.Millisecond
)

// revalidate resolves the credentials of earlier generations in batches, those in force first and
// the most recently used first, so that few checks wait for a resolve. Checks revalidate
// the unknown digests. It ends when another generation begins.
func (c *Cache) revalidate(generation uint32) {
	if !c.sleep(rand.N(revalidateSpread)) {
		return
	}
	for batch := range slices.Chunk(c.invalidatedPlaces(generation), sidecarapi.MaxResolve) {
		for !c.revalidateBatch(generation, batch) {
			if !c.sleep(jitter(probeInterval)) {
				return
			}
		}
		if c.state.Load().generation != generation || !c.sleep(rand.N(revalidatePause)) {
			return
		}
	}
}

// place is where an entry of an earlier generation was found. It contains no digest, because the
// list of a whole cache would take three times the memory.
type place struct {
	used  int64
	slot  slot
	shard uint8
	pool  poolID
}

// revalidateBatch resolves the entries that are still of an earlier generation, and waits. It
// reports whether the batch is done, which it is not while the key API cannot be reached.
func (c *Cache) revalidateBatch(generation uint32, batch []place) (done bool) {
	if c.state.Load().generation != generation {
		return true
	}
	if c.down() {
		return false
	}
	var loads []*load
	for _, p := range batch {
		if d, still := c.pools[p.shard].earlier(p.slot, generation); still {
			loads = append(loads, c.request(c.ctx, d, true))
		}
	}
	done = true
	for _, l := range loads {
		if _, err := wait(c.ctx, l); err != nil && !errors.Is(err, errUnusableResult) {
			done = false
		}
	}
	return done
}

// earlier returns the digest of an entry, and whether it is of an earlier generation.
func (s *shard) earlier(i slot, generation uint32) (d credential.Digest, still bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.at(i)
	return e.digest, e.isEarlier(generation)
}

// invalidatedPlaces lists the credentials of earlier generations in the order of revalidate. A check
// waits for one chunk of a shard at most.
func (c *Cache) invalidatedPlaces(generation uint32) (list []place) {
	var part []place
	for i := range c.pools {
		for n, more := 0, true; more; n++ {
			part, more = c.pools[i].invalidatedPlaces(part[:0], n, generation)
			for _, p := range part {
				p.shard = uint8(i)
				list = append(list, p)
			}
		}
	}
	slices.SortFunc(list, func(a, b place) int { return cmp.Or(cmp.Compare(a.pool, b.pool), cmp.Compare(b.used, a.used)) })
	return list
}

// invalidatedPlaces appends the credentials of earlier generations in a chunk to the list, and
// reports whether there are more chunks.
func (s *shard) invalidatedPlaces(list []place, chunk int, generation uint32) ([]place, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.chunks[chunk] {
		if e := &s.chunks[chunk][i]; e.isEarlier(generation) {
			list = append(list, place{used: e.used, slot: slot(chunk*chunkSize + i), pool: e.pool})
		}
	}
	return list, chunk+1 < len(s.chunks)
}

// isEarlier reports whether the entry is a credential of an earlier generation.
func (e *entry) isEarlier(generation uint32) bool { return e.found && e.generation != generation }
