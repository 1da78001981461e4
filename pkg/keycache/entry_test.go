package keycache

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

const tick = time.Nanosecond

func TestModeBoundaries(t *testing.T) {
	const lease, stale = 15 * time.Second, 15 * time.Minute
	// The clocks may be 1% off. The lease must end here first, even if this clock is slow and the key
	// API's is fast.
	leaseEnd, staleEnd := 14700*time.Millisecond, 896700*time.Millisecond
	t0 := momentOf(time.Now())
	held := state{generation: 1, epoch: "one", sent: t0, lease: lease, maxStale: stale}
	with := func(edit func(*state)) state {
		s := held
		edit(&s)
		return s
	}
	gone := with(func(s *state) { s.ended = true })
	strict := with(func(s *state) { s.maxStale = 0 })
	goneStrict := with(func(s *state) { s.maxStale, s.ended = 0, true })
	never := state{}
	ttlMode := with(func(s *state) { s.ttlMode = true })
	for _, tt := range []struct {
		name  string
		state state
		after time.Duration
		want  mode
	}{
		{"no lease yet", never, 0, cold},
		{"lease begins", held, 0, synced},
		{"lease about to end", held, leaseEnd - tick, synced},
		{"lease over", held, leaseEnd, degraded},
		{"stale time about to end", held, staleEnd - tick, degraded},
		{"stale time over", held, staleEnd, cold},
		{"410", gone, 0, degraded},
		{"410, stale time over", gone, staleEnd, cold},
		{"max_stale 0, lease about to end", strict, leaseEnd - tick, synced},
		{"max_stale 0, lease over", strict, leaseEnd, cold},
		{"max_stale 0, log lost", goneStrict, 0, cold},
		{"no log", ttlMode, 0, ttl},
		{"no log, long after", ttlMode, time.Hour, ttl},
	} {
		if got := tt.state.mode(&Times{MaxStale: stale}, t0.plus(tt.after)); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, modeNames[got], modeNames[tt.want])
		}
	}
	slow, fast := 0.99, 1.01
	if ours, theirs := float64(subtractDrift(lease))/slow, float64(lease)/fast; ours >= theirs {
		t.Errorf("it ends here after %v s, at the key API after %v s", ours, theirs)
	}
}

// A suspended machine, or a wall clock that is set, ends trust early and never late.
func TestElapsedTakesTheLongerTime(t *testing.T) {
	t0 := time.Now()
	for name, tt := range map[string]struct {
		wall, mono      time.Duration
		longer, shorter time.Duration
	}{
		"both clocks":         {time.Second, time.Second, time.Second, time.Second},
		"machine suspended":   {time.Hour, time.Second, time.Hour, time.Second},
		"wall clock set back": {-time.Hour, time.Second, time.Second, -time.Hour},
	} {
		since, now := momentOf(t0), momentOf(t0)
		now.wall += int64(tt.wall)
		now.mono += int64(tt.mono)
		if got := elapsed(since, now); got != tt.longer {
			t.Errorf("%s: %s, want %s", name, got, tt.longer)
		}
		if got := leastElapsed(since, now); got != tt.shorter {
			t.Errorf("%s: at least %s, want %s", name, got, tt.shorter)
		}
	}
	if got := elapsed(momentOf(t0), momentOf(t0.Add(time.Second))); got != time.Second {
		t.Errorf("a second is %s", got)
	}
}

func TestFreshnessBoundaries(t *testing.T) {
	times := &Times{MaxAge: 8 * time.Minute, ConfirmAfter: 10 * time.Second, MaxStale: 15 * time.Minute}
	t0 := momentOf(time.Now())
	changedAt := func(revision int64) *account {
		a := &account{}
		a.changed.Store(revision)
		return a
	}
	good := entry{found: true, revision: 5, generation: 1, account: changedAt(0)}
	with := func(edit func(*entry)) entry {
		e := entry{found: good.found, revision: good.revision, generation: good.generation, account: good.account}
		edit(&e)
		return e
	}
	unknown := with(func(e *entry) { e.found, e.account = false, nil })
	invalidated := with(func(e *entry) { e.generation = 0 })
	changed := with(func(e *entry) { e.account = changedAt(6) })
	current := with(func(e *entry) { e.account = changedAt(5) })
	revoked := with(func(e *entry) { e.state = credential.Revoked })
	terminated := with(func(e *entry) { e.accountState = credential.Terminated })
	const (
		yes = true
		no  = false
	)
	for _, tt := range []struct {
		name  string
		mode  mode
		entry *entry
		age   time.Duration
		want  freshness
		serve bool // may be served stale
	}{
		{"synced", synced, &good, 0, fresh, yes},
		{"synced, soon to be refreshed", synced, &good, 7*time.Minute - tick, fresh, yes},
		{"synced, to be refreshed", synced, &good, 7 * time.Minute, refresh, yes},
		{"synced, about to be stale", synced, &good, 8*time.Minute - tick, refresh, yes},
		{"synced, stale", synced, &good, 8 * time.Minute, stale, yes},
		{"synced, long stale", synced, &good, 100 * time.Hour, stale, yes},
		{"synced, unknown", synced, &unknown, 0, fresh, yes},
		{"synced, unknown, stale", synced, &unknown, 8 * time.Minute, stale, yes},
		{"synced, account changed since", synced, &changed, 0, stale, no},
		{"synced, resolved after the account's change", synced, &current, 0, fresh, yes},
		{"synced, invalidated", synced, &invalidated, 0, stale, no},
		{"degraded", degraded, &good, 0, fresh, yes},
		{"degraded, soon to be refreshed", degraded, &good, 5*time.Second - tick, fresh, yes},
		{"degraded, to be refreshed", degraded, &good, 5 * time.Second, refresh, yes},
		{"degraded, about to be stale", degraded, &good, 10*time.Second - tick, refresh, yes},
		{"degraded, stale", degraded, &good, 10 * time.Second, stale, yes},
		{"degraded, revoked, stale", degraded, &revoked, 10 * time.Second, stale, yes},
		{"degraded, unknown", degraded, &unknown, 0, fresh, no},
		{"degraded, unknown, stale", degraded, &unknown, 10 * time.Second, stale, no},
		{"degraded, account changed since", degraded, &changed, 0, stale, no},
		{"degraded, invalidated", degraded, &invalidated, 0, stale, no},
		{"ttl", ttl, &good, 0, fresh, yes},
		{"ttl, about to be stale", ttl, &good, 10*time.Second - tick, refresh, yes},
		{"ttl, stale", ttl, &good, 10 * time.Second, stale, yes},
		{"ttl, stale time about to end", ttl, &good, 15*time.Minute - tick, stale, yes},
		{"ttl, stale time over", ttl, &good, 15 * time.Minute, stale, no},
		{"ttl, stale time over, revoked", ttl, &revoked, time.Hour, stale, yes},
		{"ttl, stale time over, terminated", ttl, &terminated, time.Hour, stale, yes},
		{"ttl, unknown", ttl, &unknown, 0, fresh, no},
		{"ttl, unknown, stale", ttl, &unknown, 10 * time.Second, stale, no},
		{"ttl, invalidated", ttl, &invalidated, 0, stale, no},
		{"cold", cold, &good, 0, stale, no},
		{"cold, unknown", cold, &unknown, 0, stale, no},
	} {
		now := t0.plus(tt.age)
		s := state{generation: 1, epoch: "one", lease: time.Minute, maxStale: 900 * time.Hour}
		switch tt.mode {
		case synced:
			s.sent = now
		case degraded:
			s.sent = now.plus(-2 * time.Minute)
		case ttl:
			s.ttlMode = true
		case cold:
		}
		if got := s.mode(times, now); got != tt.mode {
			t.Fatalf("%s: the test has mode %s", tt.name, modeNames[got])
		}
		tt.entry.confirmed = t0
		if got := s.freshness(tt.entry, times, now); got != tt.want {
			t.Errorf("%s: freshness %d, want %d", tt.name, got, tt.want)
		}
		if got := s.mayServeStale(tt.entry, times, now); got != tt.serve {
			t.Errorf("%s: served stale is %t, want %t", tt.name, got, tt.serve)
		}
	}
}

// sizes compares the sizes of the pools, and the entries that each account counts.
func (f *fixture) sizes(known, unknown int) {
	f.t.Helper()
	synctest.Wait()
	if k, u := f.pools.sizes(); k != known || u != unknown {
		f.t.Errorf("%d known and %d unknown, want %d and %d", k, u, known, unknown)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	accounts, scopeSets := make(map[*account]int), make(map[*scopeSet]int)
	for i := range f.pools {
		for _, id := range []poolID{knownPool, unknownPool} {
			for _, e := range f.pools[i].all(id) {
				if e.account != nil {
					accounts[e.account]++
				}
				if e.scopes != nil {
					scopeSets[e.scopes]++
				}
			}
		}
	}
	if len(accounts) != len(f.accounts) || len(scopeSets) != len(f.scopeSets) {
		f.t.Errorf("%d accounts and %d sets of scopes for the entries of %d and %d", len(f.accounts), len(f.scopeSets), len(accounts), len(scopeSets))
	}
	for id, a := range f.accounts {
		if a.entries != accounts[a] {
			f.t.Errorf("%s counts %d entries, has %d", id, a.entries, accounts[a])
		}
	}
	for name, s := range f.scopeSets {
		if s.entries != scopeSets[s] {
			f.t.Errorf("%q counts %d entries, has %d", name, s.entries, scopeSets[s])
		}
	}
}

// plus returns the moment after a time by both clocks.
func (m moment) plus(d time.Duration) moment {
	return moment{wall: m.wall + int64(d), mono: m.mono + int64(d)}
}

// Credentials that are not in force evict none that is in force.
func TestOnlyCredentialsInForceAreKnown(t *testing.T) {
	for name, end := range map[string]func(credential.Record) credential.Record{
		"revoked":    revoked,
		"terminated": terminated,
		"expired":    func(r credential.Record) credential.Record { return expires(r, time.Now()) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(o *Options) { unlimited(o); o.Known, o.Unknown = 100, 50 }, func(f *fixture) {
				f.start()
				good, bad := names("good", 100), names("bad", 3000)
				for _, name := range good {
					f.api.put(digest(name), goodKey(name))
				}
				for _, name := range bad {
					f.api.put(digest(name), end(keyOf("shared", name)))
				}
				f.concurrently(good)
				f.sizes(100, 0)
				for range 2 {
					f.concurrently(bad)
				}
				f.sizes(100, 50)
				for _, name := range good {
					f.wantHit(name, "good")
				}
			})
		})
	}
}

// An entry moves to the other pool when its state changes.
func TestEntriesMoveBetweenThePools(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.start()
		f.want("good", "good")
		f.sizes(1, 0)
		// A change of the credential.
		f.api.change(digest("good"), revoked(goodKey("good")))
		advance(5 * time.Millisecond)
		f.sizes(0, 1)
		f.wantHit("good", "revoked")
		f.api.change(digest("good"), goodKey("good"))
		advance(5 * time.Millisecond)
		f.wantHit("good", "good")
		f.sizes(1, 0)
		// A change of its account.
		f.api.changeAccount("account-of-good", credential.Terminated)
		synctest.Wait()
		f.want("good", "terminated")
		f.sizes(0, 1)
		f.api.changeAccount("account-of-good", credential.Active)
		synctest.Wait()
		f.want("good", "good")
		f.sizes(1, 0)
		// An import.
		f.want("imported", "unknown")
		f.sizes(1, 1)
		f.api.change(digest("imported"), goodKey("imported"))
		synctest.Wait()
		f.want("imported", "good")
		f.sizes(2, 0)
	})
}

// An entry that expires moves on its next look-up, without a resolve. Changes of its account still
// reach it.
func TestExpiredEntriesMove(t *testing.T) {
	bubble(t, func(o *Options) { o.Known = 10 }, func(f *fixture) {
		f.start()
		for _, name := range names("key", 10) {
			f.api.put(digest(name), expires(keyOf("shared", name), time.Now().Add(time.Minute)))
			f.want(name, "good")
		}
		f.sizes(10, 0)
		advance(time.Minute - time.Millisecond)
		f.sizes(10, 0)
		advance(time.Millisecond)
		for i, name := range names("key", 10) {
			f.wantHit(name, "expired")
			f.sizes(9-i, i+1)
			f.wantHit(name, "expired")
		}
		f.api.changeAccount("shared", credential.Terminated)
		synctest.Wait()
		f.wantMiss("key-3", "expired")
		f.wantHit("key-3", "expired")
		f.sizes(0, 10)
	})
}

// Cached revoked keys are revalidated after the credentials in force.
func TestRevokedEntriesAreRevalidatedLast(t *testing.T) {
	bubble(t, func(o *Options) { unlimited(o); o.Known, o.Unknown = 10_000, 10_000 }, func(f *fixture) {
		f.start()
		good, bad := names("good", 1000), names("bad", 1000)
		for i := range good {
			f.api.put(digest(good[i]), goodKey(good[i]))
			f.api.put(digest(bad[i]), revoked(goodKey(bad[i])))
		}
		f.concurrently(good)
		advance(time.Second)
		f.concurrently(bad) // more recent
		f.concurrently(names("unknown", 1000))
		f.api.resetCounts()
		f.api.replace("two", 0)
		advance(10 * time.Second)
		if digests, requests := f.api.total(); digests != 2000 || requests != 2 {
			t.Errorf("%d digests in %d resolves", digests, requests)
		}
		first := make(map[credential.Digest]bool)
		for _, d := range f.api.resolves[0].digests {
			first[d] = true
		}
		for _, name := range good {
			if !first[digest(name)] {
				t.Fatalf("%s is not in the first batch", name)
			}
		}
		f.wantHit(bad[7], "revoked")
	})
}
