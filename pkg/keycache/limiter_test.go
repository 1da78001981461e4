package keycache

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// stream looks up all names, so many in each millisecond, and counts the outcomes.
func (f *fixture) stream(names []string, perMillisecond int) map[string]int {
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := make(map[string]int)
	for i, name := range names {
		if i%perMillisecond == 0 {
			<-time.After(time.Millisecond)
		}
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

// A cold start with many good keys is not rate-limited.
func TestColdStartIsNotRateLimited(t *testing.T) {
	for name, tt := range map[string]struct {
		start func(f *fixture)
		keys  int
	}{
		"before the first lease": {func(f *fixture) { f.api.set(func() { f.api.pollDelay = 300 * time.Millisecond }); f.start() }, 20_000},
		"under a lease":          {func(f *fixture) { f.start() }, 5000},
		"without a change log":   {func(f *fixture) { f.api.pollErr = sidecarapi.ErrNotOffered; f.start() }, 5000},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(o *Options) { o.Known, o.ChangesOptional = 100_000, true }, func(f *fixture) {
				keys := names("key", tt.keys)
				for _, name := range keys {
					f.api.facts[digest(name)] = goodKey(name)
				}
				f.api.sendDelay, f.api.replyDelay = 15*time.Millisecond, 15*time.Millisecond
				tt.start(f)
				if got := f.stream(keys, 5); got["good"] != len(keys) {
					t.Errorf("answers: %v", got)
				}
			})
		})
	}
}

// In a flood the key API gets only the look-ups that the limiter admits, and cached credentials
// answer as before.
func TestFloodIsRateLimited(t *testing.T) {
	const seconds = 4
	bubble(t, nil, func(f *fixture) {
		f.api.sendDelay = 10 * time.Millisecond
		f.start()
		f.want("good", "good")
		f.api.resetCounts()
		done := make(chan map[string]int, 1)
		began := time.Now()
		go func() { done <- f.stream(names("flood", seconds*4000), 4) }()
		for time.Since(began) < seconds*time.Second {
			f.wantHit("good", "good")
			advance(100 * time.Millisecond)
		}
		// Revalidating a changed credential takes no token.
		f.api.change(digest("good"), revoked(goodKey("good")))
		advance(time.Millisecond)
		began = time.Now()
		f.want("good", "revoked")
		if took := time.Since(began); took > 15*time.Millisecond {
			t.Errorf("a changed credential waited %s", took)
		}
		got := <-done
		n, _ := f.api.total()
		if most := 400 + 200*seconds + 50; n > most {
			t.Errorf("%d look-ups reached the key API, want at most %d", n, most)
		}
		if got["unknown"] < 400+200*(seconds-1) || got["unknown"]+got["429"] != seconds*4000 {
			t.Errorf("answers: %v", got)
		}
	})
}

func oneToken(o *Options) { o.Admission = Admission{PerSecond: 1, Burst: 1} }

// A look-up that finds a credential in force, or has no usable result, refunds its token. One that
// finds nothing, or a credential that is not in force, consumes it.
func TestTokensAreRefunded(t *testing.T) {
	for name, tt := range map[string]struct {
		editResolved func(*sidecarapi.Resolved)
		names        []string
		want         string
	}{
		"found":    {nil, names("good", 50), "good"},
		"unusable": {unusableResults, names("odd", 50), "503"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, oneToken, func(f *fixture) {
				for _, n := range tt.names {
					f.api.put(digest(n), goodKey(n))
				}
				f.start()
				f.api.set(func() { f.api.editResolved = tt.editResolved })
				for _, n := range tt.names {
					f.want(n, tt.want)
				}
			})
		})
	}
	for name, tt := range map[string]struct {
		record func(string) credential.Record // nil: unknown
		want   string
	}{
		"unknown":    {nil, "unknown"},
		"revoked":    {func(n string) credential.Record { return revoked(goodKey(n)) }, "revoked"},
		"terminated": {func(n string) credential.Record { return terminated(goodKey(n)) }, "terminated"},
		"expired":    {func(n string) credential.Record { return expires(goodKey(n), time.Now()) }, "expired"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, oneToken, func(f *fixture) {
				for _, n := range []string{"a", "b", "c"} {
					if tt.record != nil {
						f.api.put(digest(n), tt.record(n))
					}
				}
				f.start()
				f.want("a", tt.want)
				f.wantHit("a", tt.want)
				f.want("b", "429")
				advance(time.Second - admitWait - batchWindow)
				f.want("b", tt.want)
				f.want("c", "429")
				f.want("c", "429")
			})
		})
	}
	// A failed look-up refunds its token.
	bubble(t, oneToken, func(f *fixture) {
		f.start()
		f.api.set(func() { f.api.resolveErr = errUnreachable })
		f.want("a", "503")
		f.want("b", "503")
		f.api.reconnect()
		f.want("a", "unknown")
	})
}

// A check waits up to 100 ms for a token, and no longer than its own deadline.
func TestWaitForToken(t *testing.T) {
	bubble(t, func(o *Options) { o.Admission = Admission{PerSecond: 20, Burst: 1} }, func(f *fixture) {
		f.start()
		f.want("a", "unknown")
		began := time.Now()
		f.want("b", "unknown")
		if took := time.Since(began); took < 40*time.Millisecond || took > 60*time.Millisecond {
			t.Errorf("waited %s for the next token", took)
		}
		f.SetAdmission(Admission{PerSecond: 1, Burst: 1})
		advance(time.Second)
		f.want("c", "unknown")
		began = time.Now()
		f.want("d", "429")
		if took := time.Since(began); took != admitWait {
			t.Errorf("refused after %s", took)
		}
		// Checks of the same digest share one place in the queue.
		began = time.Now()
		if got := f.concurrently([]string{"e", "e", "e"}); got["429"] != 3 || time.Since(began) != admitWait {
			t.Errorf("answers: %v after %s", got, time.Since(began))
		}
	})
}

// Look-ups that come at the same moment are refused one after the other, within a bounded time.
func TestRefusalsAreSpread(t *testing.T) {
	const n = 500
	began := time.Now()
	l := newLimiter[int](Admission{PerSecond: 1, Burst: 0})
	for i := range n {
		if !l.acquire(i, began) {
			t.Fatalf("look-up %d was refused without a wait", i)
		}
	}
	for now, total := began, 0; total < n; {
		admit, refuse, next := l.advance(now)
		at := now.Sub(began)
		if len(admit) > 0 || len(refuse) > 0 && at < admitWait || at > admitWait+admitSpread || len(refuse) > int(limiterTick/admitGap)+1 {
			t.Fatalf("%d admitted and %d refused after %s", len(admit), len(refuse), at)
		}
		now, total = next, total+len(refuse)
	}
}

// New limits add no tokens, and keep at most the new burst.
func TestReplacedLimitsAddNoTokens(t *testing.T) {
	bubble(t, oneToken, func(f *fixture) {
		f.start()
		f.want("a", "unknown")
		for _, a := range []Admission{{PerSecond: 1, Burst: 1}, {PerSecond: 1, Burst: 5}} {
			f.SetAdmission(a)
			f.want("b", "429")
		}
		advance(5 * time.Second)
		f.SetAdmission(Admission{PerSecond: 1, Burst: 2})
		if got := f.concurrently(names("n", 5)); got["unknown"] != 2 || got["429"] != 3 {
			t.Errorf("answers: %v", got)
		}
	})
}

// A revalidation admits the load that it joins: the entry was stored while that load waited.
func TestRevalidationAdmitsTheLoadThatItJoins(t *testing.T) {
	bubble(t, func(o *Options) { o.Admission = Admission{PerSecond: 1, Burst: 2} }, func(f *fixture) { // cold
		f.want("missing", "unknown")
		first := f.duringResolve("revoked", func() {}) // takes the last token
		second := make(chan string, 1)
		go func() { second <- f.lookup("revoked") }()
		<-first
		f.api.set(func() { f.api.replyDelay = 0 })
		began := time.Now()
		f.want("revoked", "revoked")
		if took := time.Since(began); took != batchWindow {
			t.Errorf("the revalidation took %s", took)
		}
		if got := <-second; got != "revoked" {
			t.Errorf("the check that waited for a token got %s", got)
		}
	})
}

// The queue is bounded: beyond it look-ups are refused without a wait.
func TestWaitersAreBounded(t *testing.T) {
	bubble(t, oneToken, func(f *fixture) {
		f.start()
		f.want("a", "unknown")
		go f.concurrently(names("n", maxWaiting))
		synctest.Wait()
		began := time.Now()
		f.want("one more", "429")
		if took := time.Since(began); took != 0 {
			t.Errorf("refused after %s", took)
		}
		advance(time.Second)
	})
}

// Revalidating a cached digest takes no token, for any cause.
func TestRevalidationTakesNoToken(t *testing.T) {
	for _, name := range allNames {
		t.Run(name, func(t *testing.T) {
			bubble(t, oneToken, func(f *fixture) {
				f.start()
				advance(time.Second)
				want := f.lookup(name)
				advance(2 * hotFor)
				f.want("another", "unknown") // takes the only token
				revalidates := func(cause string) {
					t.Helper()
					began := time.Now()
					f.wantMiss(name, want)
					if took := time.Since(began); took > 5*time.Millisecond {
						t.Errorf("%s: waited %s for a token", cause, took)
					}
				}
				if rec, found := f.api.facts[digest(name)]; found {
					f.api.change(digest(name), rec)
					advance(5 * time.Millisecond)
					revalidates("named by a change")
					f.api.changeAccount(rec.Account.ID, rec.Account.State)
					synctest.Wait()
					revalidates("account changed")
				} else {
					f.api.set(func() {
						f.api.revision++
						f.api.log = append(f.api.log, sidecarapi.AppliedChange{Revision: f.api.revision, Digest: digest(name)})
					})
					synctest.Wait()
					revalidates("named by a change")
				}
				f.api.set(func() { f.api.resolveErr = errUnreachable })
				f.api.replace("two", 0)
				synctest.Wait()
				f.api.set(func() { f.api.resolveErr = nil })
				advance(10 * time.Millisecond)
				if name == "missing" {
					revalidates("log replaced")
				}
				advance(time.Hour + time.Second)
				f.want("another one", "unknown")
				revalidates("past max_age")
			})
		})
	}
}
