package keycache

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// wantRising expects that poll numbers rise across names.
func (f *fixture) wantRising() {
	f.t.Helper()
	last := int64(0)
	for _, poll := range f.api.pollsSeen() {
		if poll.Poll <= last {
			f.t.Errorf("poll %d came after poll %d: %+v", poll.Poll, last, poll.ChangesRequest)
		}
		last = poll.Poll
	}
}

func TestPollNumbersRise(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.api.revision = 7
		f.start()
		f.warm()
		f.api.change(digest("good"), goodKey("good"))
		advance(20 * time.Second)
		f.api.disconnect()
		advance(time.Minute)
		f.api.reconnect()
		f.api.replace("two", 0)
		advance(time.Minute)
		f.api.takeName("sidecar")
		advance(time.Minute)
		f.api.disconnect()
		f.advanceTo(staleEnd * 2)
		f.api.reconnect()
		advance(time.Minute)
		f.stop()
		if !f.lastPoll().Leave {
			t.Error("the last poll is not a deregistration")
		}
		f.wantRising()
	})
}

// takeName records a poll of another process under the name, with a large number.
func (a *fakeAPI) takeName(name string) { a.set(func() { a.numbers[name] = 1_000_000 }) }

// A 200 to a poll of the head gives no lease: an old key API or an intermediary may have
// acknowledged changes that were never applied.
func TestLeaseForTheHeadIsRefused(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.api.leaseForHead = true
		f.start()
		for range 20 {
			f.wantEach(f.wantMiss, allAnswers)
			advance(500 * time.Millisecond)
			f.wantMode(cold)
		}
		for _, poll := range f.api.pollsSeen() {
			if poll.After != headOnly {
				t.Errorf("acknowledged by %+v", poll.ChangesRequest)
			}
		}
		f.api.set(func() { f.api.leaseForHead = false })
		advance(2 * time.Second)
		f.wantMode(synced)
	})
}

// After a 409 no cached entry answers before it is revalidated under a new lease. The sidecar
// starts over under another name.
func TestConflict(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.api.revision = 7
		f.start()
		f.warm()
		f.api.set(func() { f.api.resolveErr = errUnreachable })
		f.api.resetCounts()
		f.api.takeName("sidecar")
		advance(5 * time.Second)
		f.wantEach(f.want, noAnswers)
		polls := f.api.pollsSeen()
		if first := polls[0]; first.Sidecar != "sidecar" {
			t.Errorf("polled as %+v", first.ChangesRequest)
		}
		for i, want := range []sidecarapi.ChangesRequest{
			{Sidecar: "sidecar-2", After: headOnly, MaxStaleMS: 900_000},
			{Sidecar: "sidecar-2", Epoch: "one", After: 7, MaxStaleMS: 900_000},
		} {
			got := polls[1+i].ChangesRequest
			if got.Poll = 0; got != want {
				t.Errorf("then %+v, want %+v", got, want)
			}
		}
		if got := f.Name(); got != "sidecar-2" {
			t.Errorf("the name is %s", got)
		}
		f.api.set(func() { f.api.resolveErr = nil })
		advance(time.Second)
		f.wantEach(f.wantHit, recordAnswers)
		f.wantMode(synced)
		f.stop()
		if last := f.lastPoll(); !last.Leave || last.Sidecar != "sidecar-2" {
			t.Errorf("deregistered by %+v", last.ChangesRequest)
		}
		f.wantRising()
	})
	// The lease ends with the 409, not with the next poll.
	bubble(t, nil, func(f *fixture) {
		f.start()
		f.warm()
		f.stop()
		(&follower{cache: f.Cache}).handleConflict()
		f.wantMode(cold)
		f.wantMiss("good", "good")
		f.wantMiss("good", "good")
	})
	// The old lease and its stale time do not count after a 409, even if the key API cannot be
	// reached.
	bubble(t, nil, func(f *fixture) {
		f.start()
		f.warm()
		f.api.takeName("sidecar")
		f.api.set(func() {
			f.api.onPoll = func(req sidecarapi.ChangesRequest) {
				if req.Sidecar != "sidecar" {
					f.api.disconnect()
				}
			}
		})
		advance(6 * time.Second)
		f.wantMode(cold)
		for range 3 {
			f.wantEach(f.want, noAnswers)
			advance(time.Minute)
		}
	})
}

// A 409 counts even if the follower is woken while it is in flight.
func TestConflictWhileWoken(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.start()
		woken := false
		f.api.takeName("sidecar")
		f.api.resetCounts()
		f.api.set(func() {
			f.api.onPoll = func(sidecarapi.ChangesRequest) {
				if !woken {
					woken = true
					f.wakeFollower()
					<-time.After(time.Millisecond)
				}
			}
		})
		advance(6 * time.Second)
		polls := f.api.pollsSeen()
		if !woken || polls[0].Sidecar != "sidecar" || polls[1].Sidecar != "sidecar-2" {
			t.Errorf("polled as %s, then as %s", polls[0].Sidecar, polls[1].Sidecar)
		}
	})
}

// Key APIs and intermediaries that refuse every poll are polled with backoff.
func TestRefusalsBackOff(t *testing.T) {
	for name, refusal := range map[string]error{
		"409": sidecarapi.ErrConflict,
		"410": &sidecarapi.Gone{Epoch: "one", Revision: 3},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(f *fixture) {
				f.api.pollErr, f.api.revision = refusal, 3
				f.start()
				advance(time.Minute)
				if n := len(f.api.pollsSeen()); n > 200 {
					t.Errorf("%d polls in a minute", n)
				}
				f.wantMode(cold)
				f.wantMiss("good", "good")
				f.wantMiss("good", "good")
			})
		})
	}
}

// The head of a 410 is acknowledged immediately, after an outage too.
func TestHeadIsAcknowledgedImmediatelyAfterAnOutage(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.api.disconnect()
		f.start()
		advance(time.Minute)
		f.api.resetCounts()
		f.api.reconnect()
		advance(2 * maxRetry)
		polls := f.api.pollsSeen()
		if polls[0].After != headOnly || polls[1].After != 0 || polls[0].at != polls[1].at {
			t.Errorf("polled %+v", polls[:2])
		}
	})
}

// By default a 404 of the change log is an error like any other.
func TestRequiredChangeLogIsNotOffered(t *testing.T) {
	t.Run("from the start", func(t *testing.T) {
		bubble(t, nil, func(f *fixture) {
			f.api.pollErr = sidecarapi.ErrNotOffered
			f.start()
			for range 20 {
				f.wantEach(f.wantMiss, allAnswers)
				advance(10 * time.Second)
				f.wantMode(cold)
			}
			f.api.set(func() { f.api.resolveErr = errUnreachable })
			f.wantEach(f.want, noAnswers)
			if n := len(f.api.pollsSeen()); n < 100 {
				t.Errorf("%d polls in 200 s, want those after an error", n)
			}
		})
	})
	t.Run("after a lease", func(t *testing.T) {
		bubble(t, nil, func(f *fixture) {
			f.start()
			f.warm()
			f.api.set(func() { f.api.pollErr = sidecarapi.ErrNotOffered })
			f.advanceTo(leaseEnd + time.Second)
			f.wantMode(degraded)
			f.warm()
			f.advanceTo(staleEnd)
			for range 60 {
				advance(time.Minute)
				f.wantMode(cold)
				f.wantMiss("good", "good")
			}
		})
	})
}

// Time-to-live mode begins when the key API waits for this sidecar no longer, even if the sidecar
// has dropped its lease before: in that mode the sidecar is not on record.
func TestTTLModeNeedsTheEndOfTheLastLease(t *testing.T) {
	const end = 15*time.Minute + 15*time.Second
	for name, tt := range map[string]struct {
		fault func(f *fixture)
		end   time.Duration
	}{
		"404": {func(*fixture) {}, end},
		"409": {func(f *fixture) { f.api.takeName("sidecar"); advance(6 * time.Second); f.api.disconnect() }, end + 6*time.Second},
		"another epoch": {func(f *fixture) {
			f.api.set(func() { f.api.editChanges = func(ch *sidecarapi.Changes) { ch.Epoch = "other" } })
			advance(6 * time.Second)
			f.wantMode(cold)
		}, end},
		"an acknowledgement without an answer": {func(f *fixture) {
			f.advanceTo(10 * time.Minute)
			f.api.disconnect()
			f.advanceTo(20 * time.Minute)
		}, 20*time.Minute + end},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, changesOptional, func(f *fixture) {
				f.start()
				tt.fault(f)
				f.api.set(func() { f.api.pollErr = sidecarapi.ErrNotOffered })
				f.advanceTo(tt.end - 10*time.Second)
				if f.state.Load().ttlMode {
					t.Error("in time-to-live mode before the end of the last lease and its stale time")
				}
				f.advanceTo(tt.end + 20*time.Second)
				f.wantMode(ttl)
			})
		})
	}
	// Before the first lease an acknowledgement without an answer may have given any lease.
	bubble(t, changesOptional, func(f *fixture) {
		sent := time.Now()
		end := sent.Add(longestLease + time.Minute)
		acknowledged := &follower{cache: f.Cache, unanswered: sent, unansweredStale: time.Minute}
		if acknowledged.enterTTLMode(end.Add(-tick)) || !acknowledged.enterTTLMode(end) {
			t.Error("time-to-live mode does not begin when the longest lease and the stale time are over")
		}
	})
}

// A change log that appears ends time-to-live mode before the acknowledgement, because from then on
// the key API may wait for this sidecar.
func TestTTLModeEndsBeforeTheAcknowledgement(t *testing.T) {
	bubble(t, changesOptional, func(f *fixture) {
		f.api.pollErr = sidecarapi.ErrNotOffered
		f.start()
		f.warm()
		var acknowledged []mode
		f.api.set(func() {
			f.api.pollErr = nil
			f.api.onPoll = func(req sidecarapi.ChangesRequest) {
				if req.After != headOnly {
					acknowledged = append(acknowledged, f.mode())
					f.api.disconnect()
				}
			}
		})
		advance(2 * ttlPollInterval)
		if len(acknowledged) == 0 || acknowledged[0] != cold {
			t.Errorf("acknowledged when the cache was %v", acknowledged)
		}
		f.wantEach(f.want, noAnswers)
	})
}

// A resolve of another epoch is not used in any mode that has an epoch.
func TestResolveOfAnotherEpochIsNotUsed(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.start()
		f.warm()
		f.api.set(func() {
			f.api.pollErr, f.api.editResolved = errUnreachable, func(r *sidecarapi.Resolved) { r.Epoch = "other" }
		})
		for _, moment := range []time.Duration{time.Second, leaseEnd, staleEnd} {
			f.advanceTo(moment)
			f.want("another", "503")
			f.want("good", "503")
		}
	})
}

// A delayed poll acknowledges only what its sidecar had applied when it was sent.
func TestPollsAcknowledgeWhatIsApplied(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		applied := make(map[string]int64) // newest acknowledged revision of each name
		f.api.set(func() {
			f.api.onPoll = func(req sidecarapi.ChangesRequest) {
				f.api.mu.Lock()
				defer f.api.mu.Unlock()
				if req.After > f.api.newestAnswered {
					t.Errorf("acknowledged %d, but received changes up to %d", req.After, f.api.newestAnswered)
				}
				applied[req.Sidecar] = max(applied[req.Sidecar], req.After)
			}
		})
		f.start()
		f.warm()
		for i := range 50 {
			f.api.change(digest("good"), goodKey(fmt.Sprint("good-", i)))
			f.api.set(func() { f.api.pollDelay = time.Duration(i%7) * 200 * time.Millisecond })
			advance(300 * time.Millisecond)
		}
		advance(10 * time.Second)
		if applied["sidecar"] < 40 {
			t.Errorf("acknowledged %v", applied)
		}
	})
}

// Other answers do not end the lease.
func TestWrongAnswersOfIntermediaries(t *testing.T) {
	for name, err := range map[string]error{
		"404": sidecarapi.ErrNotOffered, "502": &sidecarapi.StatusError{Status: 502}, "another's JSON": errors.New("malformed"),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(f *fixture) {
				f.start()
				f.warm()
				for range 20 {
					f.api.set(func() { f.api.pollErr = err })
					advance(7 * time.Second)
					f.api.set(func() { f.api.pollErr = nil })
					advance(2 * time.Second)
					f.wantMode(synced)
					f.wantEach(f.wantHit, allAnswers)
				}
				f.api.change(digest("good"), revoked(goodKey("good")))
				synctest.Wait()
				f.want("good", "revoked")
			})
		})
	}
}
