package keycache

import (
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// Inspection is what the cache has on record at one moment. It is for people: a check may find another
// state a moment later.
type Inspection struct {
	Mode string // cold, synced, degraded or ttl
	// LeaseLeft is the time until the lease ends, StaleLeft the time until no entry may answer that is
	// cached now. 0 means that the end has passed, or that there is none (time-to-live mode).
	LeaseLeft, StaleLeft time.Duration
	ResolvesFail         bool // the circuit breaker is open
	PollsFail            bool // several polls in a row failed
	Entry                *InspectedEntry
}

// InspectedEntry is the entry of a digest.
type InspectedEntry struct {
	InForce     bool          // in the pool of credentials in force
	Found       bool          // the key API has a record
	Age         time.Duration // since it was revalidated
	Invalidated bool          // by a change, or with all others
	Freshness   string        // fresh, refresh (answers, and is resolved in the background) or stale
	MayServe    bool          // stale, and answers if no resolve has a usable result
}

// Inspect reports the state of the cache and of a digest's entry, nil if there is none. It counts as no
// look-up and changes nothing.
func (c *Cache) Inspect(d credential.Digest) Inspection {
	now, state, times := momentOf(time.Now()), c.state.Load(), c.times.Load()
	i := Inspection{Mode: modeNames[state.mode(times, now)], ResolvesFail: c.down(), PollsFail: c.pollsFailing.Load()}
	i.LeaseLeft, i.StaleLeft = state.left(times, now)
	s := c.pools.of(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entry(d)
	if e == nil {
		return i
	}
	f := state.freshness(e, times, now)
	if e.hasToMove(now) {
		f = stale
	}
	i.Entry = &InspectedEntry{
		InForce: e.pool == knownPool && !e.expired(now), Found: e.found, Age: elapsed(e.confirmed, now),
		Invalidated: state.invalidated(e), Freshness: freshnessNames[f], MayServe: f == stale && state.mayServeStale(e, times, now),
	}
	return i
}

var freshnessNames = [...]string{stale: "stale", refresh: "refresh", fresh: "fresh"}

// left returns the time until the end of the lease, and until the end of its stale time.
func (s *state) left(t *Times, now moment) (lease, maxStale time.Duration) {
	switch s.mode(t, now) {
	case synced:
		lease = subtractDrift(s.lease) - elapsed(s.sent, now)
		maxStale = lease
	case cold, ttl:
		return 0, 0
	case degraded:
	}
	if longest := min(s.maxStale, t.MaxStale); longest > 0 {
		maxStale = subtractDrift(s.lease+longest) - elapsed(s.sent, now)
	}
	return lease, maxStale
}
