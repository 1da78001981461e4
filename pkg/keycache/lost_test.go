package keycache

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// lose makes the log one that does not reach back to where the sidecar stands.
var lose = map[string]func(*fixture){
	"pruned":           func(f *fixture) { f.api.replace("one", 1000) },
	"behind":           func(f *fixture) { f.api.replace("one", 3) },
	"of another epoch": func(f *fixture) { f.api.replace("two", 3) },
}

// After a 410 nothing that was cached answers before it is confirmed, whatever cannot
// be reached.
func TestGoneInvalidatesEverything(t *testing.T) {
	for name, lose := range lose {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(f *fixture) {
				f.api.revision = 7
				f.start()
				f.warm()
				f.api.set(func() { f.api.resolveErr = errUnreachable })
				lose(f)
				synctest.Wait()
				for range 3 {
					for _, name := range allNames {
						f.want(name, "503")
					}
					advance(time.Minute)
				}
				f.wantMode(synced)
				if known, unknown := f.pools.sizes(); known != 1 || unknown != 3 {
					t.Errorf("%d known and %d unknown are left of 1 and 3", known, unknown)
				}
				f.api.set(func() { f.api.resolveErr = nil })
				advance(time.Second)
				// Confirmed by itself.
				for i, name := range allNames[:3] {
					f.wantHit(name, allAnswers[i])
				}
				f.wantMiss("missing", "unknown")
			})
		})
	}
}

// The next poll comes at once, with what the 410 told and without a wait; until it is
// answered there is no lease.
func TestGoneIsAcknowledgedImmediately(t *testing.T) {
	for name, lose := range lose {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(f *fixture) {
				f.api.revision = 7
				f.start()
				f.api.resetCounts()
				lost := time.Now()
				lose(f)
				synctest.Wait()
				poll := f.api.pollsSeen()[0]
				if poll.Epoch != f.api.epoch || poll.After != f.api.revision || poll.WaitMS != 0 || poll.at != lost {
					t.Errorf("polled %+v %s after the 410", poll.ChangesRequest, poll.at.Sub(lost))
				}
				f.wantMode(synced)
			})
			// While that poll is not answered, the old lease counts for nothing.
			bubble(t, nil, func(f *fixture) {
				f.api.revision = 7
				f.start()
				f.warm()
				f.api.set(func() { f.api.pollDelay = 400 * time.Millisecond })
				lose(f)
				advance(600 * time.Millisecond)
				f.wantMode(degraded)
				advance(2 * time.Second)
				f.wantMode(synced)
			})
			bubble(t, func(o *Options) { o.Times.MaxStale = 0 }, func(f *fixture) {
				f.api.revision = 7
				f.start()
				f.api.set(func() { f.api.pollDelay = 400 * time.Millisecond })
				lose(f)
				advance(600 * time.Millisecond)
				f.wantMode(cold)
				advance(2 * time.Second)
				f.wantMode(synced)
			})
		})
	}
}

// An epoch that a resolve tells of counts like a 410, and its answer is not used.
func TestResolveOfNewEpoch(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.api.revision = 7
		f.start()
		f.warm()
		f.api.set(func() { f.api.pollDelay = 50 * time.Millisecond }) // resolves are faster
		synctest.Wait()
		f.api.mu.Lock() // nobody is woken
		f.api.epoch, f.api.revision, f.api.oldest = "two", 3, 3
		f.api.facts[digest("good")] = revoked(goodKey("good"))
		f.api.mu.Unlock()
		began := time.Now()
		f.want("another", "unknown")
		if took := time.Since(began); took > 150*time.Millisecond {
			t.Errorf("settled after %s", took)
		}
		f.wantMode(synced)
		f.want("good", "revoked")
		if got := f.state.Load().epoch; got != "two" {
			t.Errorf("follows %q", got)
		}
	})
}

// A stream of checks does not keep the follower from finding out which log counts.
func TestManyResolvesOfNewEpoch(t *testing.T) {
	bubble(t, unlimited, func(f *fixture) {
		f.start()
		f.warm()
		f.api.set(func() { f.api.pollDelay = 100 * time.Millisecond })
		synctest.Wait()
		f.api.mu.Lock()
		f.api.epoch = "two"
		f.api.mu.Unlock()
		f.api.resetCounts()
		for _, name := range names("n", 300) {
			go f.lookup(name)
			advance(2 * time.Millisecond)
		}
		f.wantMode(synced)
		f.want("good", "good")
		if n := len(f.api.pollsSeen()); n > 5 {
			t.Errorf("%d polls to settle", n)
		}
	})
}

// An answer of a log that is no more, which comes late, changes nothing for long.
func TestLateResolveOfOldEpoch(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.start()
		f.warm()
		f.api.set(func() { f.api.editResolved = func(r *sidecarapi.Resolved) { r.Epoch, r.Revision = "zero", 99 } })
		go f.lookup("another")
		advance(5 * time.Millisecond)
		f.api.set(func() { f.api.editResolved = nil })
		advance(time.Second)
		f.wantMode(synced)
		if got := f.state.Load(); got.epoch != "one" {
			t.Errorf("follows %q", got.epoch)
		}
		for i, name := range allNames[:3] {
			f.wantHit(name, allAnswers[i])
		}
	})
}

// Revisions that go back are refused: no lease, no fill.
func TestDecreasingRevisions(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.api.revision = 7
		f.start()
		f.warm()
		f.api.set(func() { f.api.editChanges = func(ch *sidecarapi.Changes) { ch.Revision, ch.List = 6, nil } })
		f.advanceTo(leaseEnd + 6*time.Second)
		f.wantMode(degraded)
		f.api.set(func() {
			f.api.editChanges = nil
			f.api.editResolved = func(r *sidecarapi.Resolved) { r.Revision = 6 }
		})
		advance(2 * time.Second)
		f.wantMode(synced)
		f.want("another", "503")
		f.wantHit("good", "good")
	})
}

// A 200 of another epoch than the one that was asked about is refused; as it says that
// the log may be another, the next poll begins anew, and until its answer nothing that
// is cached answers: that poll acknowledges the head.
func TestPollAnswerOfAnotherEpoch(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.api.revision = 7
		f.start()
		f.warm()
		var begun []mode
		f.api.set(func() {
			f.api.editChanges = func(ch *sidecarapi.Changes) { ch.Epoch, f.api.editChanges = "other", nil }
			f.api.onPoll = func(ask sidecarapi.ChangesRequest) {
				if ask.After == headOnly {
					begun = append(begun, f.mode())
				}
			}
		})
		advance(10 * time.Second)
		if len(begun) != 1 || begun[0] != cold {
			t.Errorf("began anew %d times, when it was %v", len(begun), begun)
		}
		f.wantMode(synced)
		for i, name := range allNames[:3] {
			f.wantHit(name, allAnswers[i]) // confirmed again
		}
		if n := f.api.resolvedCount(digest("good")); n != 2 {
			t.Errorf("asked %d times, want twice", n)
		}
	})
}

// After the stale time's end the next poll begins anew, and what was cached is suspect.
func TestStartsOverAfterTheStaleTime(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.start()
		f.warm()
		f.api.disconnect()
		f.advanceTo(staleEnd)
		advance(3 * time.Second)
		if poll := f.lastPoll(); poll.After != headOnly || poll.Epoch != "" {
			t.Errorf("polled %+v", poll.ChangesRequest)
		}
		f.api.set(func() {
			f.api.pollErr = nil
			f.api.facts[digest("good")] = revoked(goodKey("good"))
		})
		advance(2 * time.Second)
		f.wantMode(synced)
		f.want("good", "503") // suspect, and not to be confirmed
		f.api.reconnect()
		advance(time.Second)
		f.wantHit("good", "revoked")
	})
}
