package keycache

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// The ends of what the first poll at moment 0 gives.
const (
	leaseEnd = 14700 * time.Millisecond
	staleEnd = 896700 * time.Millisecond
)

// at waits for a moment after the beginning.
func (f *fixture) advanceTo(moment time.Duration) {
	advance(moment - time.Since(f.began()))
}

// began is the moment of the first poll: the bubble's own beginning.
func (f *fixture) began() time.Time { return f.api.pollsSeen()[0].at }

type answers [4]string // of good, revoked, terminated, nobody

var (
	allAnswers   = answers{"good", "revoked", "terminated", "unknown"}
	foundAnswers = answers{"good", "revoked", "terminated", "503"}
	noAnswers    = answers{"503", "503", "503", "503"}
)

// Every row of what the cache may answer, with the key API gone, half gone and there.
func TestModes(t *testing.T) {
	deaf := func(a *fakeAPI) { a.pollErr = errUnreachable }
	down := func(a *fakeAPI) { a.pollErr, a.resolveErr = errUnreachable, errUnreachable }
	mute := func(a *fakeAPI) { a.pollErr, a.editResolved = errUnreachable, unusableResults }
	for _, tt := range []struct {
		name     string
		maxStale time.Duration
		fault    func(*fakeAPI) // a moment after all four were confirmed
		again    time.Duration  // asked once more then; 0: not
		at       time.Duration
		want     answers
		asks     bool // for all of them
	}{
		{"synced, nothing reachable", 15 * time.Minute, down, 0, leaseEnd - tick, allAnswers, false},
		{"degraded, confirmed a moment ago", 15 * time.Minute, deaf, leaseEnd, leaseEnd + 4*time.Second, allAnswers, false},
		{"degraded, to be confirmed", 15 * time.Minute, deaf, 0, leaseEnd, allAnswers, true},
		{"degraded, near its end", 15 * time.Minute, deaf, 0, staleEnd - time.Second, allAnswers, true},
		{"island", 15 * time.Minute, down, 0, leaseEnd, foundAnswers, true},
		{"island, near its end", 15 * time.Minute, down, 0, staleEnd - time.Second, foundAnswers, true},
		{"island, where resolve teaches nothing", 15 * time.Minute, mute, 0, leaseEnd, foundAnswers, true},
		{"cold again", 15 * time.Minute, down, 0, staleEnd, noAnswers, true},
		{"cold again, resolve answers", 15 * time.Minute, deaf, 0, staleEnd, allAnswers, true},
		{"cold again, confirmed a moment ago", 15 * time.Minute, deaf, staleEnd - time.Second, staleEnd, allAnswers, true},
		{"cold again, resolve teaches nothing", 15 * time.Minute, mute, 0, staleEnd, noAnswers, true},
		{"max_stale 0, under the lease", 0, down, 0, leaseEnd - tick, allAnswers, false},
		{"max_stale 0, nothing reachable", 0, down, 0, leaseEnd, noAnswers, true},
		{"max_stale 0, resolve answers", 0, deaf, leaseEnd - time.Second, leaseEnd, allAnswers, true},
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
					// While the key API is down it is the breaker that is asked.
					if asked := f.api.resolvedCount(digest(name)) > before; asked != tt.asks && f.breaker.allows() {
						t.Errorf("%s: asked for is %t", name, asked)
					}
				}
			})
		})
	}
}

// Before the first lease, what one check has learned is nothing to the next.
func TestColdBeforeTheFirstLease(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.api.pollErr = errUnreachable
		f.start()
		for range 3 {
			for i, name := range allNames {
				f.wantMiss(name, allAnswers[i])
			}
			advance(time.Second)
		}
		f.api.set(func() { f.api.resolveErr = errUnreachable })
		for _, name := range allNames {
			f.want(name, "503")
		}
	})
}

// Under a live lease an entry past max_age still answers when no resolve can be had,
// an unknown one too; and is confirmed as soon as one can.
func TestPastMaxAgeUnderALease(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.start()
		f.warm()
		f.api.set(func() { f.api.resolveErr = errUnreachable })
		advance(time.Hour)
		f.wantMode(synced)
		for range 3 {
			for i, name := range allNames {
				f.want(name, allAnswers[i])
			}
		}
		f.api.set(func() { f.api.resolveErr = nil })
		advance(time.Second)
		f.api.put(digest("good"), revoked(goodKey("good")))
		f.wantMiss("good", "revoked")
		f.wantHit("good", "revoked")
	})
}

// A hot credential is confirmed before it has to be, so that no check waits for it.
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
						asked := time.Now()
						f.want(name, allAnswers[i])
						if took := time.Since(asked); took != 0 {
							t.Fatalf("%s waited %s", name, took)
						}
					}
				}
				for _, name := range allNames {
					if n := f.api.resolvedCount(digest(name)); n < tt.least || n > tt.most {
						t.Errorf("%s was asked for %d times, want %d to %d", name, n, tt.least, tt.most)
					}
				}
			})
		})
	}
}

// A key API without a change log: plain times to live.
func TestTTLMode(t *testing.T) {
	bubble(t, changesOptional, func(f *fixture) {
		f.api.pollErr = sidecarapi.ErrNotOffered
		f.start()
		f.wantMode(ttl)
		f.warm()
		confirmed := time.Now()
		since := func(d time.Duration) { advance(d - time.Since(confirmed)) }
		since(4 * time.Second)
		for i, name := range allNames {
			f.wantHit(name, allAnswers[i])
		}
		// A change is seen once it is confirmed, and not before.
		f.api.put(digest("good"), revoked(goodKey("good")))
		f.wantHit("good", "good")
		since(10 * time.Second)
		f.wantMiss("good", "revoked")
		f.api.put(digest("good"), goodKey("good"))
		since(30 * time.Second)
		confirmed = time.Now()
		f.warm()

		f.api.set(func() { f.api.resolveErr = errUnreachable })
		since(15*time.Minute - time.Second)
		for i, name := range allNames {
			f.want(name, foundAnswers[i])
		}
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
		for i, name := range allNames {
			f.want(name, allAnswers[i])
		}
		// It was asked for its log about once a minute, and no more.
		if n := len(f.api.pollsSeen()); n < 10 || n > 32 {
			t.Errorf("asked for a change log %d times in 15 minutes", n)
		}
	})
}

// Without a log nobody says which of two answers counts: the newer one does, and what
// was cached before is suspect.
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
				f.want("another", "unknown") // notices
				advance(time.Second)
				f.wantHit("good", "revoked") // confirmed in the background
				f.wantMode(ttl)
			})
		})
	}
}

// From a log to none and back: what the lease promised is kept until its stale time is
// over.
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
		// It was asked for no more often than after any other failure.
		if n := len(f.api.pollsSeen()); n > int(staleEnd/(400*time.Millisecond)) {
			t.Errorf("polled %d times in %s", n, staleEnd)
		}
		// The API that comes in its place counts from the beginning.
		f.api.replace("two", 0)
		f.advanceTo(15*time.Minute + 15*time.Second + 2*time.Second)
		f.wantMode(ttl)
		f.warm()
		for i, name := range allNames {
			f.wantHit(name, allAnswers[i])
		}
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
	// A longer stale time counts only from the poll on that declares it.
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
