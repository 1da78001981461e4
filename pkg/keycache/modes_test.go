package keycache

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// The ends of the lease and the stale time that the first poll gives, counted from that poll.
const (
	leaseEnd = 14700 * time.Millisecond
	staleEnd = 896700 * time.Millisecond
)

// advanceTo waits until a moment after the first poll.
func (f *fixture) advanceTo(moment time.Duration) {
	advance(moment - time.Since(f.began()))
}

// began returns the time of the first poll.
func (f *fixture) began() time.Time { return f.api.pollsSeen()[0].at }

// Every row of the table of what the cache may answer, for each outage.
func TestModes(t *testing.T) {
	noPolls := func(a *fakeAPI) { a.pollErr = errUnreachable }
	unreachable := func(a *fakeAPI) { a.pollErr, a.resolveErr = errUnreachable, errUnreachable }
	unusable := func(a *fakeAPI) { a.pollErr, a.editResolved = errUnreachable, unusableResults }
	for _, tt := range []struct {
		name     string
		maxStale time.Duration
		fault    func(*fakeAPI) // once all four are resolved
		again    time.Duration  // moment of another look-up; 0: none
		at       time.Duration
		want     answers
		resolves bool // all of them
	}{
		{"synced, unreachable", 15 * time.Minute, unreachable, 0, leaseEnd - tick, allAnswers, false},
		{"degraded, just resolved", 15 * time.Minute, noPolls, leaseEnd, leaseEnd + 4*time.Second, allAnswers, false},
		{"degraded, to be revalidated", 15 * time.Minute, noPolls, 0, leaseEnd, allAnswers, true},
		{"degraded, near its end", 15 * time.Minute, noPolls, 0, staleEnd - time.Second, allAnswers, true},
		{"degraded, unreachable", 15 * time.Minute, unreachable, 0, leaseEnd, foundAnswers, true},
		{"degraded, unreachable, near its end", 15 * time.Minute, unreachable, 0, staleEnd - time.Second, foundAnswers, true},
		{"degraded, unusable results", 15 * time.Minute, unusable, 0, leaseEnd, foundAnswers, true},
		{"cold again", 15 * time.Minute, unreachable, 0, staleEnd, noAnswers, true},
		{"cold again, for an hour", 15 * time.Minute, unreachable, 0, staleEnd + time.Hour, noAnswers, true},
		{"cold again, resolve answers", 15 * time.Minute, noPolls, 0, staleEnd, allAnswers, true},
		{"cold again, just resolved", 15 * time.Minute, noPolls, staleEnd - time.Second, staleEnd, allAnswers, true},
		{"cold again, unusable results", 15 * time.Minute, unusable, 0, staleEnd, noAnswers, true},
		{"max_stale 0, under the lease", 0, unreachable, 0, leaseEnd - tick, allAnswers, false},
		{"max_stale 0, unreachable", 0, unreachable, 0, leaseEnd, noAnswers, true},
		{"max_stale 0, resolve answers", 0, noPolls, leaseEnd - time.Second, leaseEnd, allAnswers, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(o *Options) { o.Times.MaxStale = tt.maxStale }, func(f *fixture) {
				f.start()
				f.warm()
				f.api.set(func() { tt.fault(f.api) })
				if tt.again != 0 {
					f.advanceTo(tt.again)
					f.warm()
				}
				f.advanceTo(tt.at)
				for i, name := range allNames {
					before := f.api.resolvedCount(digest(name))
					f.want(name, tt.want[i])
					// While the breaker is open, checks send no resolves.
					if resolved := f.api.resolvedCount(digest(name)) > before; resolved != tt.resolves && !f.down() {
						t.Errorf("%s: resolved is %t", name, resolved)
					}
				}
			})
		})
	}
}

// Before the first lease no check is answered from the result of another.
func TestColdBeforeTheFirstLease(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.api.pollErr = errUnreachable
		f.start()
		for range 3 {
			f.wantEach(f.wantMiss, allAnswers)
			advance(time.Second)
		}
		f.api.set(func() { f.api.resolveErr = errUnreachable })
		f.wantEach(f.want, noAnswers)
	})
}

// Under a lease an entry past max_age is served stale if no resolve is possible, and revalidated
// as soon as one is.
func TestPastMaxAgeUnderALease(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.start()
		f.warm()
		f.api.set(func() { f.api.resolveErr = errUnreachable })
		advance(time.Hour)
		f.wantMode(synced)
		for range 3 {
			f.wantEach(f.want, allAnswers)
		}
		f.api.set(func() { f.api.resolveErr = nil })
		advance(time.Second)
		f.api.put(digest("good"), revoked(goodKey("good")))
		f.wantMiss("good", "revoked")
		f.wantHit("good", "revoked")
	})
}

// Entries in use are refreshed before they are stale, so that no check waits.
func TestUsedEntriesAreRefreshed(t *testing.T) {
	for name, tt := range map[string]struct {
		fault func(*fakeAPI)
		pause time.Duration
		lasts time.Duration
		least int
		most  int
	}{
		"synced":   {func(*fakeAPI) {}, time.Minute, 10 * time.Hour, 10, 13},
		"degraded": {func(a *fakeAPI) { a.pollErr = errUnreachable }, time.Second, 5 * time.Minute, 29, 61},
		"ttl":      {func(a *fakeAPI) { a.pollErr = sidecarapi.ErrNotOffered }, time.Second, 5 * time.Minute, 29, 61},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, changesOptional, func(f *fixture) {
				if name == "ttl" {
					f.api.pollErr = sidecarapi.ErrNotOffered
				}
				f.start()
				f.warm()
				f.api.set(func() { tt.fault(f.api) })
				f.api.set(func() { f.api.sendDelay = 50 * time.Millisecond })
				if name == "degraded" {
					advance(leaseEnd)
					f.warm()
				}
				f.api.resetCounts()
				for began := time.Now(); time.Since(began) < tt.lasts; advance(tt.pause) {
					for i, name := range allNames {
						checked := time.Now()
						f.want(name, allAnswers[i])
						if took := time.Since(checked); took != 0 {
							t.Fatalf("%s waited %s", name, took)
						}
					}
				}
				for _, name := range allNames {
					if n := f.api.resolvedCount(digest(name)); n < tt.least || n > tt.most {
						t.Errorf("%s was resolved %d times, want %d to %d", name, n, tt.least, tt.most)
					}
				}
			})
		})
	}
}

// Without a change log entries have a time to live.
func TestTTLMode(t *testing.T) {
	bubble(t, changesOptional, func(f *fixture) {
		f.api.pollErr = sidecarapi.ErrNotOffered
		f.start()
		f.wantMode(ttl)
		f.warm()
		resolved := time.Now()
		since := func(d time.Duration) { advance(d - time.Since(resolved)) }
		since(4 * time.Second)
		f.wantEach(f.wantHit, allAnswers)
		// A change counts from the next revalidation on.
		f.api.put(digest("good"), revoked(goodKey("good")))
		f.wantHit("good", "good")
		since(10 * time.Second)
		f.wantMiss("good", "revoked")
		f.api.put(digest("good"), goodKey("good"))
		since(30 * time.Second)
		resolved = time.Now()
		f.warm()

		f.api.set(func() { f.api.resolveErr = errUnreachable })
		since(15*time.Minute - time.Second)
		f.wantEach(f.want, foundAnswers)
		since(15*time.Minute + 10*time.Millisecond)
		for i, name := range allNames {
			want := "503"
			if allAnswers[i] == "revoked" || allAnswers[i] == "terminated" {
				want = allAnswers[i] // stays denied
			}
			f.want(name, want)
		}
		f.api.set(func() { f.api.resolveErr = nil })
		advance(time.Second)
		f.wantEach(f.want, allAnswers)
		// The change log is polled about once a minute.
		if n := len(f.api.pollsSeen()); n < 10 || n > 32 {
			t.Errorf("%d polls in 15 minutes", n)
		}
	})
}

// In time-to-live mode the newer of two epochs counts, and everything cached before is invalidated.
func TestTTLModeAnotherEpoch(t *testing.T) {
	for name, change := range map[string]func(*fakeAPI){
		"another epoch": func(a *fakeAPI) { a.epoch = "two" },
		"backwards":     func(a *fakeAPI) { a.revision = 3 },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, changesOptional, func(f *fixture) {
				f.api.pollErr, f.api.revision = sidecarapi.ErrNotOffered, 7
				f.start()
				f.warm()
				f.api.set(func() {
					change(f.api)
					f.api.facts[digest("good")] = revoked(goodKey("good"))
				})
				f.want("another", "unknown") // notices the change
				advance(time.Second)
				f.wantHit("good", "revoked") // revalidated in the background
				f.wantMode(ttl)
			})
		})
	}
}

// After a change log disappears, its lease and stale time count to their end. It may return later.
func TestChangeLogDisappearsAndReturns(t *testing.T) {
	bubble(t, changesOptional, func(f *fixture) {
		f.start()
		f.api.changeAccount("account-of-good", credential.Active) // revision 1
		synctest.Wait()
		f.warm()
		f.api.set(func() { f.api.pollErr = sidecarapi.ErrNotOffered })
		f.advanceTo(leaseEnd)
		f.wantMode(degraded)
		f.advanceTo(staleEnd - time.Second)
		f.wantMode(degraded)
		f.advanceTo(15*time.Minute + 15*time.Second - time.Second) // by the key API's clock
		f.wantMode(cold)
		// Polls are not more frequent than after any other failure.
		if n := len(f.api.pollsSeen()); n > int(staleEnd/(400*time.Millisecond)) {
			t.Errorf("polled %d times in %s", n, staleEnd)
		}
		// The next key API counts revisions from 0.
		f.api.replace("two", 0)
		f.advanceTo(15*time.Minute + 15*time.Second + 2*time.Second)
		f.wantMode(ttl)
		f.warm()
		f.wantEach(f.wantHit, allAnswers)
		f.api.set(func() { f.api.pollErr = nil })
		advance(2 * ttlPollInterval)
		f.wantMode(synced)
		f.warm()
		f.api.change(digest("good"), revoked(goodKey("good")))
		synctest.Wait()
		f.want("good", "revoked")
	})
}

func TestReplacedTimes(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.start()
		f.warm()
		f.SetTimes(Times{MaxAge: time.Minute, ConfirmAfter: time.Second, MaxStale: 0})
		advance(time.Minute)
		f.wantMiss("good", "good")
		polls := f.api.pollsSeen()
		if got := polls[len(polls)-1].MaxStaleMS; got != 0 {
			t.Errorf("max_stale %d ms was declared", got)
		}
		f.api.disconnect()
		advance(15 * time.Second)
		f.want("good", "503")
	})
	// A longer stale time counts from the poll that declares it.
	bubble(t, func(o *Options) { o.Times.MaxStale = 0 }, func(f *fixture) {
		f.start()
		f.warm()
		f.api.disconnect()
		advance(time.Second)
		f.SetTimes(Times{MaxAge: time.Hour, ConfirmAfter: 10 * time.Second, MaxStale: time.Hour})
		f.advanceTo(leaseEnd)
		f.want("good", "503")
	})
	// A shorter one counts immediately.
	bubble(t, nil, func(f *fixture) {
		f.start()
		f.warm()
		f.api.disconnect()
		advance(time.Second)
		f.SetTimes(Times{MaxAge: time.Hour, ConfirmAfter: 10 * time.Second, MaxStale: time.Minute})
		end := subtractDrift(f.api.lease + time.Minute)
		f.advanceTo(end - time.Second)
		f.want("good", "good")
		f.advanceTo(end - tick)
		f.wantMode(degraded)
		f.advanceTo(end)
		f.want("good", "503")
	})
}
