package keycache

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// logLosses replace the log, so that it does not reach back to the sidecar's revision.
var logLosses = map[string]func(*fixture){
	"pruned":           func(f *fixture) { f.api.replace("one", 1000) },
	"behind":           func(f *fixture) { f.api.replace("one", 3) },
	"of another epoch": func(f *fixture) { f.api.replace("two", 3) },
}

// After a 410 no cached entry answers before it is revalidated.
func TestGoneInvalidatesEverything(t *testing.T) {
	for name, lose := range logLosses {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(f *fixture) {
				f.api.revision = 7
				f.start()
				f.warm()
				f.api.set(func() { f.api.resolveErr = errUnreachable })
				lose(f)
				synctest.Wait()
				for range 3 {
					f.wantEach(f.want, noAnswers)
					advance(time.Minute)
				}
				f.wantMode(synced)
				if known, unknown := f.pools.sizes(); known != 1 || unknown != 3 {
					t.Errorf("%d known and %d unknown remain, want 1 and 3", known, unknown)
				}
				f.api.set(func() { f.api.resolveErr = nil })
				advance(time.Second)
				// They are revalidated without a check.
				f.wantEach(f.wantHit, recordAnswers)
				f.wantMiss("missing", "unknown")
			})
		})
	}
}

// The next poll is sent immediately and without a wait, and acknowledges the head of the 410. There
// is no lease before its answer.
func TestGoneIsAcknowledgedImmediately(t *testing.T) {
	for name, lose := range logLosses {
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
			// The old lease does not count before the answer to that poll.
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

// A resolve of a new epoch counts like a 410 and is not used.
func TestResolveOfNewEpoch(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.api.revision = 7
		f.start()
		f.warm()
		f.api.set(func() { f.api.pollDelay = 50 * time.Millisecond }) // resolves are faster
		synctest.Wait()
		f.api.mu.Lock() // without waking the poll
		f.api.epoch, f.api.revision, f.api.oldest = "two", 3, 3
		f.api.facts[digest("good")] = revoked(goodKey("good"))
		f.api.mu.Unlock()
		began := time.Now()
		f.want("another", "unknown")
		if took := time.Since(began); took > 150*time.Millisecond {
			t.Errorf("the epoch was followed after %s", took)
		}
		f.wantMode(synced)
		f.want("good", "revoked")
		if got := f.state.Load().epoch; got != "two" {
			t.Errorf("follows %q", got)
		}
	})
}

// A stream of resolves of a new epoch does not keep the follower from polling.
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
			t.Errorf("%d polls", n)
		}
	})
}

// A late resolve of an old epoch only causes a poll.
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
		f.wantEach(f.wantHit, recordAnswers)
	})
}

// Revisions that decrease give no lease and no fill.
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

// A 200 of another epoch than the poll's is refused, and the next poll starts over. Before its
// answer no cached entry answers, because that poll acknowledges the head.
func TestPollAnswerOfAnotherEpoch(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.api.revision = 7
		f.start()
		f.warm()
		var modes []mode
		f.api.set(func() {
			f.api.editChanges = func(ch *sidecarapi.Changes) { ch.Epoch, f.api.editChanges = "other", nil }
			f.api.onPoll = func(req sidecarapi.ChangesRequest) {
				if req.After == headOnly {
					modes = append(modes, f.mode())
				}
			}
		})
		advance(10 * time.Second)
		if len(modes) != 1 || modes[0] != cold {
			t.Errorf("started over %d times, in the modes %v", len(modes), modes)
		}
		f.wantMode(synced)
		f.wantEach(f.wantHit, recordAnswers) // revalidated
		if n := f.api.resolvedCount(digest("good")); n != 2 {
			t.Errorf("%d resolves, want 2", n)
		}
	})
}

// After the stale time the next poll starts over, and everything is invalidated.
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
		f.want("good", "503") // invalidated, and not revalidated
		f.api.reconnect()
		advance(time.Second)
		f.wantHit("good", "revoked")
	})
}
