package keycache

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

func (f *fixture) lastPoll() pollSeen {
	polls := f.api.pollsSeen()
	return polls[len(polls)-1]
}

// A start requests the head, and acknowledges it immediately by a poll that gives the first lease.
func TestStartAcknowledgesTheHead(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.api.revision = 7
		select {
		case <-f.Answered():
			t.Error("Answered is closed before the first poll")
		default:
		}
		f.start()
		polls := f.api.pollsSeen()
		for i, want := range []sidecarapi.ChangesRequest{
			{Sidecar: "sidecar", Poll: 1, After: headOnly, MaxStaleMS: 900_000},
			{Sidecar: "sidecar", Poll: 2, Epoch: "one", After: 7, MaxStaleMS: 900_000},
			{Sidecar: "sidecar", Poll: 3, Epoch: "one", After: 7, WaitMS: 4500, MaxStaleMS: 900_000},
		} {
			if polls[i].ChangesRequest != want || polls[0].at != polls[i].at && i < 2 {
				t.Errorf("poll %d was %+v, want %+v", i+1, polls[i].ChangesRequest, want)
			}
		}
		select {
		case <-f.Answered():
		default:
			t.Error("Answered is not closed")
		}
		f.wantMode(synced)
	})
}

// The lease runs from the sending of the poll, not from its answer.
func TestLeaseRunsFromTheSending(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		const pollDelay, sent = 400 * time.Millisecond, 800 * time.Millisecond // the poll of the head comes first
		f.api.pollDelay = pollDelay
		f.start()
		f.advanceTo(sent + 2*pollDelay - tick)
		f.wantMode(cold)
		f.advanceTo(sent + 2*pollDelay)
		f.wantMode(synced)
		f.api.disconnect()
		f.advanceTo(sent + leaseEnd - tick)
		f.wantMode(synced)
		f.advanceTo(sent + leaseEnd)
		f.wantMode(degraded)
	})
}

// When a poll acknowledges a change, no older fact answers.
func TestAppliedBeforeAcknowledged(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.start()
		f.warm()
		var acknowledged []string
		f.api.set(func() {
			f.api.onPoll = func(req sidecarapi.ChangesRequest) {
				if req.After == 2 {
					f.api.set(func() { f.api.resolveErr = errUnreachable })
					acknowledged = append(acknowledged, f.lookup("good"), f.lookup("terminated"))
				}
			}
		})
		f.api.set(func() {
			f.api.revision = 2
			f.api.facts[digest("good")] = revoked(goodKey("good"))
			f.api.log = append(f.api.log,
				sidecarapi.AppliedChange{Revision: 1, Digest: digest("good")},
				sidecarapi.AppliedChange{Revision: 2, Account: "account-of-terminated"})
		})
		advance(2 * time.Second)
		if len(acknowledged) < 2 {
			t.Fatal("the changes were not acknowledged")
		}
		for _, got := range acknowledged {
			if got != "503" && got != "revoked" {
				t.Errorf("%s was answered after the acknowledgement", got)
			}
		}
	})
}

// A hot credential that a change names is resolved before a check needs it.
func TestChangeInvalidatesCredential(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.start()
		f.warm()
		f.api.change(digest("good"), revoked(goodKey("good")))
		advance(5 * time.Millisecond)
		f.wantHit("good", "revoked")
		// Other entries stay as they are.
		for i, name := range allNames[1:] {
			f.wantHit(name, allAnswers[1+i])
		}
		// A credential that was not looked up recently is resolved by the next check.
		advance(2 * hotFor)
		f.api.resetCounts()
		f.api.change(digest("revoked"), revoked(goodKey("revoked")))
		advance(time.Second)
		if n := f.api.resolvedCount(digest("revoked")); n != 0 {
			t.Errorf("a credential without look-ups was resolved %d times", n)
		}
		f.wantMiss("revoked", "revoked")
	})
}

// Look-ups and changes of the same credential may run at the same time.
func TestChangesDuringLookups(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.concurrent = true
		f.start()
		f.warm()
		for range 20 {
			var checks sync.WaitGroup
			for range 4 {
				checks.Go(func() {
					for range 200 {
						f.want("good", "good")
					}
				})
			}
			f.api.change(digest("good"), goodKey("good"))
			checks.Wait()
		}
	})
}

// A change of an account invalidates all of its credentials, and evicts none.
func TestChangeInvalidatesAccount(t *testing.T) {
	bubble(t, unlimited, func(f *fixture) {
		f.start()
		members := names("member", 900)
		for _, name := range members {
			f.api.put(digest(name), keyOf("shared", name))
		}
		if got := f.concurrently(members); got["good"] != len(members) {
			t.Fatalf("answers: %v", got)
		}
		f.want("good", "good")
		entries, _ := f.pools.sizes()
		f.api.changeAccount("shared", credential.Terminated)
		synctest.Wait()
		if n, _ := f.pools.sizes(); n != entries {
			t.Errorf("%d entries of %d remain", n, entries)
		}
		f.wantHit("good", "good") // of another account
		f.api.set(func() { f.api.resolveErr = errUnreachable })
		for _, name := range members[:2] {
			f.want(name, "503")
		}
		f.api.set(func() { f.api.resolveErr = nil })
		if got := f.concurrently(members); got["terminated"] != len(members) {
			t.Errorf("answers: %v", got)
		}
		f.wantHit(members[0], "terminated")
		f.api.changeAccount("shared", credential.Active)
		synctest.Wait()
		f.want(members[0], "good")
	})
}

// A part of the changes gives no lease and does not extend the current one: later changes may
// already count as effective.
func TestPartialChangesGiveNoLease(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.start()
		f.api.set(func() { f.api.pollErr = errUnreachable })
		f.advanceTo(staleEnd - time.Second)
		f.warm() // resolved without a lease
		f.stop()
		f.api.set(func() { f.api.revision = 5 })
		sent := time.Now()
		f.advanceTo(staleEnd)
		// The answer to a poll that was sent before the end of the stale time, and arrives after it.
		late := &follower{cache: f.Cache}
		req := sidecarapi.ChangesRequest{Epoch: "one", MaxStaleMS: 900_000}
		if err := late.handleChanges(req, sent, sidecarapi.Changes{Epoch: "one", Revision: 4}); err != nil {
			t.Fatal(err)
		}
		f.wantMode(cold)
		f.wantMiss("good", "good")
		if err := late.handleChanges(req, sent, sidecarapi.Changes{Epoch: "one", Revision: 5, Lease: 15 * time.Second}); err != nil {
			t.Fatal(err)
		}
		f.wantMode(synced)
	})
	// A part does not shorten the lease either.
	bubble(t, nil, func(f *fixture) {
		f.start()
		f.stop()
		advance(time.Second)
		part := sidecarapi.Changes{Epoch: "one", Revision: 4}
		if err := (&follower{cache: f.Cache}).handleChanges(sidecarapi.ChangesRequest{Epoch: "one"}, time.Now(), part); err != nil {
			t.Fatal(err)
		}
		f.advanceTo(leaseEnd - tick)
		f.wantMode(synced)
	})
}

func TestDeregistration(t *testing.T) {
	for name, tt := range map[string]struct {
		api  func(*fakeAPI)
		want bool
	}{
		"under a lease":                  {func(*fakeAPI) {}, true},
		"before the first poll's answer": {func(a *fakeAPI) { a.pollDelay = time.Hour }, true},
		"without a change log":           {func(a *fakeAPI) { a.pollErr = sidecarapi.ErrNotOffered }, false},
		"without a key API":              {func(a *fakeAPI) { a.pollErr = errUnreachable }, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, changesOptional, func(f *fixture) {
				tt.api(f.api)
				f.start()
				began := time.Now()
				f.stop()
				if took := time.Since(began); took > deregisterTimeout {
					t.Errorf("the deregistration took %s", took)
				}
				polls := f.api.pollsSeen()
				if last := f.lastPoll(); last.Leave != tt.want || last.Sidecar != "sidecar" || last.Poll != int64(len(polls)) {
					t.Errorf("the last of %d polls was %+v", len(polls), last.ChangesRequest)
				}
			})
		})
	}
}

// After a failure the first retry comes within 100 ms. Two polls are never sent more than 2 s
// apart, and the backoff bounds their number.
func TestBackoffIsBounded(t *testing.T) {
	for name, fault := range map[string]func(*fakeAPI){
		"refused": func(a *fakeAPI) { a.pollErr = errUnreachable },
		"hangs":   func(a *fakeAPI) { a.pollDelay = time.Hour },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(f *fixture) {
				f.start()
				f.api.resetCounts()
				f.api.set(func() { fault(f.api) })
				failed := time.Now()
				if name == "hangs" {
					f.api.disconnect() // ends the poll in flight, so that the next one hangs
					synctest.Wait()
					f.api.reconnect()
				}
				advance(10 * time.Minute)
				polls := f.api.pollsSeen()
				if first := polls[0].at.Sub(failed); first >= minRetry {
					t.Errorf("first retry after %s", first)
				}
				for i := range polls[1:] {
					if gap := polls[i+1].at.Sub(polls[i].at); gap > 2*time.Second {
						t.Errorf("polls %s apart", gap)
					}
				}
				if n := len(polls); n > 2400 {
					t.Errorf("%d polls in ten minutes", n)
				}
				f.api.set(func() { f.api.pollErr, f.api.pollDelay = nil, 0 })
				advance(2 * time.Second)
				f.wantMode(synced)
			})
		})
	}
}

// A key API that does not hold polls is not polled in a loop, and its changes are applied.
func TestEarlyAnswersAreNotPolledInALoop(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.api.noWait = true
		f.start()
		f.warm()
		advance(10 * time.Second)
		if n := len(f.api.pollsSeen()); n > int(15*time.Second/earlyAnswerPause) {
			t.Errorf("%d polls in 10 s", n)
		}
		f.wantMode(synced)
		f.api.change(digest("good"), revoked(goodKey("good")))
		advance(2*earlyAnswerPause + 5*time.Millisecond)
		f.wantHit("good", "revoked")
	})
}

// Sidecars that lost the key API at the same moment retry at different moments.
func TestBackoffHasJitter(t *testing.T) {
	moments := make(map[time.Duration]bool)
	for range 20 {
		bubble(t, nil, func(f *fixture) {
			f.start()
			f.api.resetCounts()
			failed := time.Now()
			f.api.disconnect()
			advance(time.Second)
			moments[f.api.pollsSeen()[0].at.Sub(failed)] = true
		})
	}
	if len(moments) < 15 {
		t.Errorf("20 sidecars retried at %d moments", len(moments))
	}
}

// A stop cancels the poll in flight.
func TestStopCancelsThePoll(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.start()
		advance(time.Second)
		began := time.Now()
		f.stop()
		if took := time.Since(began); took != 0 {
			t.Errorf("the stop took %s", took)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	bubble(t, nil, func(f *fixture) {
		if err := f.Run(ctx); err != nil {
			t.Error(err)
		}
		if polls := f.api.pollsSeen(); len(polls) != 0 {
			t.Errorf("polled %v after the stop", polls)
		}
	})
}
