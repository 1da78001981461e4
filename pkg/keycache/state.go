package keycache

import (
	"time"
)

// Times are the configured bounds of trust.
type Times struct {
	MaxAge       time.Duration // with a lease: confirmed at least so often
	ConfirmAfter time.Duration // without: confirmed so often
	MaxStale     time.Duration // how long after the end of the last lease anything cached may still answer
}

// mode is what the cache may rely on at a moment.
type mode uint8

const (
	cold     mode = iota // nothing cached answers: no lease yet, its stale time is over, or it was dropped
	synced               // the lease lives
	degraded             // the lease is over, its stale time is not
	ttl                  // the key API has no change log
)

var modeNames = [...]string{cold: "cold", synced: "synced", degraded: "degraded", ttl: "ttl"}

// state is what the follower has learned of the log. It is immutable; the follower
// replaces it as a whole.
type state struct {
	generation uint64 // counts the invalidations: an entry of an earlier one does not answer
	epoch      string // of the log; "" until one is known
	noLog      bool   // the key API offers none

	// The last lease. sent is zero before the first one.
	sent    time.Time
	lease   time.Duration
	stale   time.Duration // that was declared to the key API together with that lease
	void    bool          // the lease has ended early: a 410. Its stale time goes on
	dropped bool          // the lease and its stale time have ended early
}

// mode returns what may be relied on at now.
func (s *state) mode(now time.Time) mode {
	if s.noLog {
		return ttl
	}
	if s.sent.IsZero() || s.dropped {
		return cold
	}
	passed := elapsed(s.sent, now)
	switch {
	case !s.void && passed < trusted(s.lease):
		return synced
	case s.stale > 0 && passed < trusted(s.lease+s.stale):
		return degraded
	}
	return cold
}

// onRecord reports whether the key API may still wait for this sidecar at now, because of the
// last lease. The later end counts, by either clock.
func (s *state) onRecord(now time.Time) bool {
	return !s.sent.IsZero() && min(now.Sub(s.sent), now.Round(0).Sub(s.sent.Round(0))) < s.lease+s.stale
}

// trusted shortens a time that the key API measures too: each clock may run at a rate
// of its own, up to 1% off, and ours must be the first to say that it is over.
func trusted(d time.Duration) time.Duration { return d - d/50 }

// elapsed is the time from a moment until now by whichever of the two clocks says
// more. Linux's monotonic clock stands still while a machine is suspended; the wall
// clock may be set. Too long only ends a trust early.
func elapsed(since, now time.Time) time.Duration {
	return max(now.Sub(since), now.Round(0).Sub(since.Round(0)))
}

// verdict is what an entry is good for.
type verdict uint8

const (
	ask     verdict = iota // resolve first
	refresh                // answer, and resolve beside it
	answer
)

// judge returns what an entry is good for at now, before anything is resolved.
func (s *state) judge(e *entry, t Times, now time.Time) verdict {
	if e.generation != s.generation || e.outdated() {
		return ask
	}
	var limit, early time.Duration
	switch s.mode(now) {
	case synced:
		limit, early = t.MaxAge, t.MaxAge-t.MaxAge/8
	case degraded, ttl:
		limit, early = t.ConfirmAfter, t.ConfirmAfter/2
	case cold:
		return ask
	}
	switch age := elapsed(e.confirmed, now); {
	case age >= limit:
		return ask
	case age >= early && elapsed(e.refreshed, now) >= early/8:
		return refresh
	}
	return answer
}

// mayServeStale reports whether an entry may answer at now although it should have been
// revalidated, because no resolve had a usable result.
func (s *state) mayServeStale(e *entry, t Times, now time.Time) bool {
	if e.generation != s.generation || e.outdated() {
		return false
	}
	switch s.mode(now) {
	case synced:
		return true
	case degraded:
		return e.found
	case ttl:
		return e.found && (e.denied() || elapsed(e.confirmed, now) < t.MaxStale)
	case cold:
	}
	return false
}
