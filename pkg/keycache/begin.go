package keycache

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// invalidateAll has no cached entry answer before it is revalidated, and follows the named log
// from its revision on. The lease ends: it belongs to the log before. c.mu is held.
func (c *Cache) invalidateAll(epoch string, revision int64) {
	next := *c.state.Load()
	next.generation++
	next.epoch = epoch
	next.void = true
	c.seen = revision
	for _, a := range c.accounts {
		a.changed.Store(0) // revisions of another log cannot be compared
	}
	c.state.Store(&next)
	c.metrics.beginnings.Inc()
	if !c.closed {
		c.background.Go(func() { c.confirm(next.generation) })
	}
}

// dropLease ends the last lease and its stale time, so that nothing cached answers until the
// next lease. By the clock they may be over, but a clock can be set back. c.mu is held.
func (c *Cache) dropLease() {
	next := *c.state.Load()
	next.dropped = true
	c.state.Store(&next)
}

// epochMismatch handles a resolve of a log that is not followed. The followed one may have
// been replaced, so nothing cached answers until the follower has polled. c.mu is held.
func (c *Cache) epochMismatch(epoch string, revision int64) {
	if c.stray != nil && c.stray.Epoch == epoch {
		return
	}
	c.stray = &sidecarapi.Gone{Epoch: epoch, Revision: revision}
	c.invalidateAll(c.state.Load().epoch, c.seen)
	c.wakeFollower()
}

// wakeFollower has the follower give up its poll, or its pause, and poll at once.
func (c *Cache) wakeFollower() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

const (
	// confirmSpread spreads the beginnings of many sidecars that lost the log at once.
	confirmSpread = 100 * time.Millisecond
	confirmPause  = 20 * time.Millisecond // at most, between two batches
)

// confirm revalidates the credentials that an earlier generation cached, those in force first
// and the hottest first, in batches, so that few checks have to wait for it and the key API
// gets no burst. Unknown digests are revalidated by the checks that need them. It ends when
// another generation begins.
func (c *Cache) confirm(generation uint64) {
	if !c.sleep(rand.N(confirmSpread)) {
		return
	}
	for batch := range slices.Chunk(c.suspects(generation), sidecarapi.MaxResolve) {
		for !c.confirmBatch(generation, batch) {
			if !c.sleep(probeEvery/2 + rand.N(probeEvery)) {
				return
			}
		}
		if c.state.Load().generation != generation || !c.sleep(rand.N(confirmPause)) {
			return
		}
	}
}

// confirmBatch asks for what of a batch is still suspect, and waits for it. It tells
// whether there is nothing left to ask: not so while nothing can be reached.
func (c *Cache) confirmBatch(generation uint64, batch []credential.Digest) (done bool) {
	if !c.breaker.allows() {
		return false
	}
	var loads []*load
	for _, d := range batch {
		s := c.state.Load()
		if s.generation != generation {
			return true
		}
		if c.suspect(d, generation) {
			loads = append(loads, c.request(d, true, s.mode(time.Now())))
		}
	}
	done = true
	for _, l := range loads {
		if _, err := wait(c.life, l); err != nil && !errors.Is(err, errUnusableResult) {
			done = false
		}
	}
	return done
}

func (c *Cache) suspect(d credential.Digest, generation uint64) bool {
	shard := c.pools.of(d)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	e := shard.peek(d)
	return e != nil && e.generation != generation
}

// suspects lists the credentials of earlier generations in the order of confirm.
func (c *Cache) suspects(generation uint64) []credential.Digest {
	type suspect struct {
		digest credential.Digest
		used   time.Time
	}
	var known, others []suspect
	collect := func(list []suspect, pool *pool) []suspect {
		for _, d := range pool.Keys() {
			if e, ok := pool.Peek(d); ok && e.found && e.generation != generation {
				list = append(list, suspect{d, e.used})
			}
		}
		return list
	}
	for i := range c.pools.shards {
		shard := &c.pools.shards[i]
		shard.mu.Lock()
		known = collect(known, shard.known)
		others = collect(others, shard.unknown)
		shard.mu.Unlock()
	}
	var digests []credential.Digest
	for _, list := range [][]suspect{known, others} {
		slices.SortFunc(list, func(a, b suspect) int { return b.used.Compare(a.used) })
		for _, s := range list {
			digests = append(digests, s.digest)
		}
	}
	return digests
}
