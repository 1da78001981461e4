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

// unlimited admits every look-up.
func unlimited(o *Options) { o.Admission = Admission{PerSecond: 1_000_000, Burst: 1_000_000} }

// concurrently looks up all names at the same time and counts the outcomes.
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
		checks := make([]string, 10_000)
		for i := range checks {
			checks[i] = "good"
		}
		if got := f.concurrently(checks); got["good"] != len(checks) {
			t.Errorf("answers: %v", got)
		}
		if digests, requests := f.api.total(); digests != 1 || requests != 1 {
			t.Errorf("%d digests in %d resolves, want one", digests, requests)
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
			t.Errorf("%d digests in %d resolves, want 2500 in 3", digests, requests)
		}
		for _, r := range f.api.resolves {
			if len(r.digests) > sidecarapi.MaxResolve {
				t.Errorf("%d digests in one resolve", len(r.digests))
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
				t.Errorf("%s apart: %d resolves, want %d", gap, requests, gap.requests)
			}
		}
	})
}

// A failure is not cached, and is not a 401.
func TestFailuresAreNotCached(t *testing.T) {
	for name, fail := range map[string]func(*fakeAPI){
		"unreachable": func(a *fakeAPI) { a.resolveErr = errUnreachable },
		"timeout":     func(a *fakeAPI) { a.sendDelay = time.Hour },
		"unusable": func(a *fakeAPI) {
			a.editResolved = unusableResults
		},
		"older revision": func(a *fakeAPI) { a.editResolved = func(r *sidecarapi.Resolved) { r.Revision-- } },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(f *fixture) {
				f.api.revision = 7
				f.start()
				f.api.set(func() { fail(f.api) })
				f.wantMiss("good", "503")
				f.wantMiss("missing", "503")
				if known, unknown := f.pools.sizes(); known+unknown != 0 {
					t.Errorf("%d entries after a failure", known+unknown)
				}
				f.api.set(func() { f.api.resolveErr, f.api.sendDelay, f.api.editResolved = nil, 0, nil })
				f.wantMiss("good", "good")
				f.wantMiss("missing", "unknown")
			})
		})
	}
}

// An unusable result fails only the look-up of its digest.
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
			t.Errorf("%d resolves", requests)
		}
		// Unusable results do not open the breaker.
		for range 2 * maxFailures {
			f.wantMiss("bad", "503")
		}
		f.wantMiss("another", "unknown")
	})
}

// Each check has its own deadline. The load continues without it.
func TestEachCheckHasItsOwnDeadline(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.start()
		f.api.sendDelay = 100 * time.Millisecond
		began := time.Now()
		short, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
		defer cancel()
		long := make(chan string, 1)
		go func() { long <- f.lookup("good") }()
		if _, _, err := f.Lookup(short, digest("good")); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 30*time.Millisecond {
			t.Errorf("error %v after %s", err, time.Since(began))
		}
		if got := <-long; got != "good" || time.Since(began) != 100*time.Millisecond+batchWindow {
			t.Errorf("%s after %s", got, time.Since(began))
		}
		// The result of a check that was cancelled is cached.
		cancelled, cancel := context.WithCancel(context.Background())
		cancel()
		if _, _, err := f.Lookup(cancelled, digest("revoked")); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		advance(time.Second)
		f.wantHit("revoked", "revoked")
	})
}

// duringResolve looks a name up, and calls change after the key API has read the facts and before
// its answer arrives.
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
		{"a pruned log", func(f *fixture) {
			f.api.put(digest("good"), revoked(goodKey("good")))
			f.api.replace("one", 100)
		}, "revoked"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, nil, func(f *fixture) {
				f.start()
				first := f.duringResolve("good", func() { tt.change(f) })
				joined := make(chan string, 1)
				go func() { joined <- f.lookup("good") }() // begins after the change is applied
				if got := <-joined; got != tt.want {
					t.Errorf("a check that joined the late load got %s, want %s", got, tt.want)
				}
				if got := <-first; got != tt.want && got != "good" {
					t.Errorf("a check that began before the change got %s", got)
				}
				advance(time.Second)
				f.want("good", tt.want)
			})
			bubble(t, nil, func(f *fixture) {
				f.start()
				first := f.duringResolve("good", func() { tt.change(f) })
				advance(45 * time.Millisecond) // the late answer has arrived
				f.want("good", tt.want)
				<-first
			})
		})
	}
}

// A digest that is imported while it is resolved is known afterwards.
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

// The attempts of a load are bounded, even if the facts change during each.
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
			t.Errorf("%d resolves, want %d", n, maxAttempts)
		}
		f.want("good", "good")
	})
}

// In cold mode no check joins a load that was sent before the check began.
func TestColdJoinsNoOlderLoad(t *testing.T) {
	bubble(t, nil, func(f *fixture) { // cold: the follower does not run
		first := f.duringResolve("good", func() { f.api.change(digest("good"), revoked(goodKey("good"))) })
		f.want("good", "revoked")
		if got := <-first; got != "good" {
			t.Errorf("the first check got %s", got)
		}
		if n := f.api.resolvedCount(digest("good")); n != 2 {
			t.Errorf("%d resolves", n)
		}
		// Checks of the same millisecond share a load.
		f.api.resetCounts()
		f.concurrently([]string{"good", "good", "good"})
		if digests, _ := f.api.total(); digests != 1 {
			t.Errorf("%d digests resolved", digests)
		}
	})
}

// A flood of unknown digests evicts no known credential.
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
		// Known credentials evict no unknown digest.
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
