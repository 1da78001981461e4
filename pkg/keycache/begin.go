package keycache

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keyapi"
)

// beginAnew makes everything cached suspect and follows the named log from its
// revision on. A lease that was held is void: it spoke of the old log. c.mu is held.
func (c *Cache) beginAnew(epoch string, revision int64) {
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

// foreign deals with an answer of a log that is not followed: perhaps the followed
// one was replaced, and until the follower knows, nothing that it said may be
// relied on. c.mu is held.
func (c *Cache) foreign(epoch string, revision int64) {
	if c.stray != nil && c.stray.Epoch == epoch {
		return
	}
	c.stray = &keyapi.Gone{Epoch: epoch, Revision: revision}
	c.beginAnew(c.state.Load().epoch, c.seen)
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

const (
	// confirmSpread spreads the beginnings of many sidecars that lost the log at once.
	confirmSpread = 100 * time.Millisecond
	confirmPause  = 20 * time.Millisecond // at most, between two batches
)

// confirm asks again for everything that an earlier generation cached, hottest first,
// in batches, so that few checks have to wait for it and the key API sees no
// stampede. It ends when another generation begins.
func (c *Cache) confirm(generation uint64) {
	if !c.sleep(rand.N(confirmSpread)) { //nolint:gosec // G404: jitter
		return
	}
	for batch := range slices.Chunk(c.suspects(generation), keyapi.MaxResolve) {
		for !c.confirmBatch(generation, batch) {
			if !c.sleep(probeEvery/2 + rand.N(probeEvery)) { //nolint:gosec // G404: jitter
				return
			}
		}
		if c.state.Load().generation != generation || !c.sleep(rand.N(confirmPause)) { //nolint:gosec // G404: jitter
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
		if _, err := wait(c.life, l); err != nil && !errors.Is(err, errNothing) {
			done = false
		}
	}
	return done
}

func (c *Cache) suspect(d credential.Digest, generation uint64) bool {
	shard := c.pools.of(d)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	e, ok := shard.known.Peek(d)
	return ok && e.generation != generation
}

// suspects lists the known credentials of earlier generations, hottest first.
func (c *Cache) suspects(generation uint64) []credential.Digest {
	type suspect struct {
		digest credential.Digest
		used   time.Time
	}
	var all []suspect
	for i := range c.pools.shards {
		shard := &c.pools.shards[i]
		shard.mu.Lock()
		for _, d := range shard.known.Keys() {
			if e, ok := shard.known.Peek(d); ok && e.generation != generation {
				all = append(all, suspect{d, e.used})
			}
		}
		shard.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b suspect) int { return b.used.Compare(a.used) })
	digests := make([]credential.Digest, len(all))
	for i, s := range all {
		digests[i] = s.digest
	}
	return digests
}
