package keycache

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// unlimited lets every look-up through.
func unlimited(o *Options) { o.Admission = Admission{PerSecond: 1_000_000, Burst: 1_000_000} }

// together asks for all names at once and returns what became of each.
func (f *fixture) concurrently(names []string) map[string]int {
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := make(map[string]int)
	for _, name := range names {
		wg.Go(func() {
			o := f.lookup(name)
			mu.Lock()
			defer mu.Unlock()
			got[o]++
		})
	}
	wg.Wait()
	return got
}

func TestMissesOfADigestShareALoad(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.api.sendDelay, f.api.replyDelay = 50*time.Millisecond, 50*time.Millisecond
		f.start()
		advance(time.Second)
		crowd := make([]string, 10_000)
		for i := range crowd {
			crowd[i] = "good"
		}
		if got := f.concurrently(crowd); got["good"] != len(crowd) {
			t.Errorf("answers: %v", got)
		}
		if digests, requests := f.api.total(); digests != 1 || requests != 1 {
			t.Errorf("%d digests in %d requests, want one", digests, requests)
		}
		f.wantHit("good", "good")
	})
}

func TestMissesOfAMillisecondShareAResolve(t *testing.T) {
	bubble(t, unlimited, func(f *fixture) {
		f.start()
		if got := f.concurrently(names("n", 2500)); got["unknown"] != 2500 {
			t.Errorf("answers: %v", got)
		}
		if digests, requests := f.api.total(); digests != 2500 || requests != 3 {
			t.Errorf("%d digests in %d requests, want 2500 in 3", digests, requests)
		}
		for _, r := range f.api.resolves {
			if len(r.digests) > sidecarapi.MaxResolve {
				t.Errorf("%d digests in one request", len(r.digests))
			}
		}
		for _, gap := range []struct {
			time.Duration
			requests int
		}{{batchWindow - time.Microsecond, 1}, {batchWindow + time.Microsecond, 2}} {
			f.api.resetCounts()
			go f.lookup("early" + gap.String())
			advance(gap.Duration)
			f.lookup("late" + gap.String())
			if _, requests := f.api.total(); requests != gap.requests {
				t.Errorf("%s apart: %d requests, want %d", gap, requests, gap.requests)
			}
		}
	})
}

// A failure is nobody's fact: not remembered, and no 401.
func TestFailuresAreNotCached(t *testing.T) {
	for name, fail := range map[string]func(*fakeAPI){
		"unreachable": func(a *fakeAPI) { a.resolveErr = errUnreachable },
		"timeout":     func(a *fakeAPI) { a.sendDelay = time.Hour },
		"teaches nothing": func(a *fakeAPI) {
			a.editResolved = unusableResults
		},
		"backwards": func(a *fakeAPI) { a.editResolved = func(r *sidecarapi.Resolved) { r.Revision-- } },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(f *fixture) {
				f.api.revision = 7
				f.start()
				f.api.set(func() { fail(f.api) })
				f.wantMiss("good", "503")
				f.wantMiss("missing", "503")
				if known, unknown := f.pools.sizes(); known+unknown != 0 {
					t.Errorf("%d entries kept of a failure", known+unknown)
				}
				f.api.set(func() { f.api.resolveErr, f.api.sendDelay, f.api.editResolved = nil, 0, nil })
				f.wantMiss("good", "good")
				f.wantMiss("missing", "unknown")
			})
		})
	}
}

// One result that teaches nothing takes nothing from the others of its batch.
func TestUnusableResultFailsItsDigestAlone(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.start()
		bad := digest("bad")
		f.api.put(bad, goodKey("bad"))
		f.api.editResolved = func(r *sidecarapi.Resolved) {
			for i := range r.Results {
				if r.Results[i].Record.ID == "key-bad" {
					r.Results[i] = sidecarapi.Result{}
				}
			}
		}
		if got := f.concurrently([]string{"good", "bad", "revoked"}); got["good"] != 1 || got["revoked"] != 1 || got["503"] != 1 {
			t.Errorf("answers: %v", got)
		}
		if _, requests := f.api.total(); requests != 1 {
			t.Errorf("%d requests", requests)
		}
		// The breaker is for a key API that is down, not for a result that is odd.
		for range 2 * maxFailures {
			f.wantMiss("bad", "503")
		}
		f.wantMiss("another", "unknown")
	})
}

// Each waits on his own deadline; the load goes on without them.
func TestEachCheckHasItsOwnDeadline(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.start()
		f.api.sendDelay = 100 * time.Millisecond
		began := time.Now()
		impatient, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
		defer cancel()
		patient := make(chan string, 1)
		go func() { patient <- f.lookup("good") }()
		if _, _, err := f.Lookup(impatient, digest("good")); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 30*time.Millisecond {
			t.Errorf("error %v after %s", err, time.Since(began))
		}
		if got := <-patient; got != "good" || time.Since(began) != 100*time.Millisecond+batchWindow {
			t.Errorf("%s after %s", got, time.Since(began))
		}
		// A caller that has gone leaves an answer for the next.
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		if _, _, err := f.Lookup(gone, digest("revoked")); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		advance(time.Second)
		f.wantHit("revoked", "revoked")
	})
}

// late has a resolve answered with the facts as they are now, and then changes them
// before the answer is there.
func (f *fixture) duringResolve(name string, change func()) (answer chan string) {
	f.api.set(func() { f.api.sendDelay, f.api.replyDelay = 0, 100*time.Millisecond })
	answer = make(chan string, 1)
	go func() { answer <- f.lookup(name) }()
	advance(50 * time.Millisecond)
	change()
	advance(10 * time.Millisecond)
	return answer
}

func TestLateFillDoesNotRestoreTheOldFact(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(f *fixture)
		want   string
	}{
		{"revoked", func(f *fixture) { f.api.change(digest("good"), revoked(goodKey("good"))) }, "revoked"},
		{"account terminated", func(f *fixture) { f.api.changeAccount("account-of-good", credential.Terminated) }, "terminated"},
		{"another log", func(f *fixture) {
			f.api.put(digest("good"), revoked(goodKey("good")))
			f.api.replace("two", 0)
		}, "revoked"},
		{"the log reaches back no more", func(f *fixture) {
			f.api.put(digest("good"), revoked(goodKey("good")))
			f.api.replace("one", 100)
		}, "revoked"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, nil, func(f *fixture) {
				f.start()
				first := f.duringResolve("good", func() { tt.change(f) })
				joined := make(chan string, 1)
				go func() { joined <- f.lookup("good") }() // begins after the change was applied
				if got := <-joined; got != tt.want {
					t.Errorf("who joined the late answer got %s, want %s", got, tt.want)
				}
				if got := <-first; got != tt.want && got != "good" {
					t.Errorf("who began before the change got %s", got)
				}
				advance(time.Second)
				f.want("good", tt.want)
			})
			bubble(t, nil, func(f *fixture) {
				f.start()
				first := f.duringResolve("good", func() { tt.change(f) })
				advance(45 * time.Millisecond) // the late answer is there
				f.want("good", tt.want)
				<-first
			})
		})
	}
}

// An unknown digest that is imported while it is asked for is known afterwards.
func TestLateFillOfAnImportedKey(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.start()
		<-f.duringResolve("imported", func() { f.api.change(digest("imported"), goodKey("imported")) })
		f.want("imported", "good")
		f.want("missing", "unknown")
		f.api.change(digest("missing"), goodKey("missing"))
		synctest.Wait()
		f.want("missing", "good")
	})
}

// Facts that change faster than they can be asked for are not asked for without end.
func TestAttemptsAreBounded(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.start()
		f.api.set(func() { f.api.replyDelay = 20 * time.Millisecond })
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case <-time.After(time.Millisecond):
					f.api.change(digest("good"), goodKey("good"))
				case <-stop:
					return
				}
			}
		}()
		f.want("good", "503")
		close(stop)
		if n := f.api.resolvedCount(digest("good")); n != maxAttempts {
			t.Errorf("asked %d times, want %d", n, maxAttempts)
		}
		f.want("good", "good")
	})
}

// Where nothing cached answers, no one is answered by a look-up that began before he
// came.
func TestColdJoinsNoOlderLoad(t *testing.T) {
	bubble(t, nil, func(f *fixture) { // the follower does not run: cold
		first := f.duringResolve("good", func() { f.api.change(digest("good"), revoked(goodKey("good"))) })
		f.want("good", "revoked")
		if got := <-first; got != "good" {
			t.Errorf("the first got %s", got)
		}
		if n := f.api.resolvedCount(digest("good")); n != 2 {
			t.Errorf("asked %d times", n)
		}
		// But those of one millisecond still share.
		f.api.resetCounts()
		f.concurrently([]string{"good", "good", "good"})
		if digests, _ := f.api.total(); digests != 1 {
			t.Errorf("asked for %d digests", digests)
		}
	})
}

// A flood of unknown digests takes no room from what is known.
func TestUnknownDigestsEvictNoKnownCredentials(t *testing.T) {
	bubble(t, func(o *Options) { unlimited(o); o.Known, o.Unknown = 3, 10 }, func(f *fixture) {
		f.start()
		good := names("kept", 3)
		for _, name := range good {
			f.api.put(digest(name), goodKey(name))
			f.want(name, "good")
		}
		f.concurrently(names("flood", 1000))
		for _, name := range good {
			f.wantHit(name, "good")
		}
		if known, unknown := f.pools.sizes(); known != 3 || unknown > 10 {
			t.Errorf("%d known, %d unknown", known, unknown)
		}
		// Nor the other way round.
		for _, name := range names("n", 10) {
			f.want(name, "unknown")
		}
		for _, name := range names("good", 50) {
			f.api.put(digest(name), goodKey(name))
			f.want(name, "good")
		}
		for _, name := range names("n", 10) {
			f.wantHit(name, "unknown")
		}
		if len(f.accounts) != 3 {
			t.Errorf("%d accounts kept for 3 entries", len(f.accounts))
		}
	})
}

func TestCloseEndsWaitingLookups(t *testing.T) {
	bubble(t, func(o *Options) { o.Admission = Admission{PerSecond: 1, Burst: 2} }, func(f *fixture) {
		f.start()
		f.api.set(func() { f.api.sendDelay = time.Hour })
		answers := make(chan map[string]int, 1)
		go func() { answers <- f.concurrently(append(names("n", 20), "good")) }()
		advance(10 * time.Millisecond)
		began := time.Now()
		f.Close()
		if took := time.Since(began); took != 0 {
			t.Errorf("Close took %s", took)
		}
		if got := <-answers; got["503"]+got["429"] != 21 {
			t.Errorf("answers: %v", got)
		}
		f.want("good", "503")
	})
}
