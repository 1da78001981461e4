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
		c.goroutines.Go(func() { c.revalidate(next.generation) })
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
func (c *Cache) revalidate(generation uint64) {
	if !c.sleep(rand.N(revalidateSpread)) {
		return
	}
	for batch := range slices.Chunk(c.invalidatedDigests(generation), sidecarapi.MaxResolve) {
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

// revalidateBatch resolves the digests that are still invalidated, and waits. It reports
// whether the batch is done, which it is not while the key API cannot be reached.
func (c *Cache) revalidateBatch(generation uint64, batch []credential.Digest) (done bool) {
	if c.state.Load().generation != generation {
		return true
	}
	if c.down() {
		return false
	}
	var loads []*load
	for _, d := range batch {
		s := c.pools.of(d)
		s.mu.Lock()
		e := s.entry(d)
		invalidated := e != nil && e.generation != generation
		s.mu.Unlock()
		if invalidated {
			loads = append(loads, c.request(d, true))
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

// invalidatedDigests lists the credentials of earlier generations in the order of revalidate.
func (c *Cache) invalidatedDigests(generation uint64) []credential.Digest {
	type candidate struct {
		digest credential.Digest
		pool   int
		used   time.Time
	}
	var list []candidate
	for i := range c.pools {
		s := &c.pools[i]
		s.mu.Lock()
		for n, pool := range []*pool{s.known, s.unknown} {
			for _, d := range pool.Keys() {
				if e, ok := pool.Peek(d); ok && e.found && e.generation != generation {
					list = append(list, candidate{d, n, e.used})
				}
			}
		}
		s.mu.Unlock()
	}
	slices.SortFunc(list, func(a, b candidate) int { return cmp.Or(cmp.Compare(a.pool, b.pool), b.used.Compare(a.used)) })
	digests := make([]credential.Digest, len(list))
	for i := range list {
		digests[i] = list[i].digest
	}
	return digests
}
