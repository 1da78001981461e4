package keycache

import (
	"fmt"
	"testing"
	"time"
)

// While the key API is down, a check of an uncached key fails immediately, and no check pays for
// detecting the recovery.
func TestBreaker(t *testing.T) {
	for name, fault := range map[string]func(*fakeAPI){
		"refused": func(a *fakeAPI) { a.resolveErr = errUnreachable },
		"hangs":   func(a *fakeAPI) { a.sendDelay = time.Hour },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, unlimited, func(f *fixture) {
				f.start()
				f.want("good", "good")
				f.api.set(func() { fault(f.api) })
				for i := range maxFailures {
					f.want(fmt.Sprint("first-", i), "503")
				}
				f.api.resetCounts()
				began := time.Now()
				for i := range 2000 {
					checked := time.Now()
					f.want(fmt.Sprint("n-", i), "503")
					if took := time.Since(checked); took >= 5*time.Millisecond {
						t.Fatalf("a check took %s while the key API is down", took)
					}
					f.wantHit("good", "good")
					advance(10 * time.Millisecond)
				}
				_, probes := f.api.total()
				if most := int(time.Since(began)/(probeInterval/2)) + 1; probes == 0 || probes > most {
					t.Errorf("%d probes in %s", probes, time.Since(began))
				}
				f.api.set(func() { f.api.resolveErr, f.api.sendDelay = nil, 0 })
				advance(f.api.timeout + 2*probeInterval)
				f.wantMiss("revoked", "revoked")
				f.wantMiss("another", "unknown")
			})
		})
	}
}

// Failures that are not in a row do not open the breaker.
func TestBreakerNeedsFailuresInARow(t *testing.T) {
	bubble(t, unlimited, func(f *fixture) {
		f.start()
		for i := range 100 {
			bad := i%maxFailures != 0
			f.api.set(func() {
				f.api.resolveErr = nil
				if bad {
					f.api.resolveErr = errUnreachable
				}
			})
			want := "unknown"
			if bad {
				want = "503"
			}
			f.want(fmt.Sprint("n-", i), want)
		}
		if _, requests := f.api.total(); requests != 100 {
			t.Errorf("%d resolves for 100 look-ups", requests)
		}
	})
}

// While the breaker is open, known credentials are served stale.
func TestBreakerServesStale(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.start()
		f.warm()
		f.api.disconnect()
		f.advanceTo(leaseEnd)
		for range 2 * maxFailures {
			for i, name := range allNames {
				began := time.Now()
				f.want(name, foundAnswers[i])
				if took := time.Since(began); took > batchWindow {
					t.Errorf("%s took %s", name, took)
				}
			}
		}
	})
}
