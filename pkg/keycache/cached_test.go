package keycache

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// Cached answers in exactly those cases in which Lookup needs neither a resolve nor a move.
func TestCachedInEachMode(t *testing.T) {
	known := answers{"good", "revoked", "terminated", "unknown"}
	var none answers
	for name, tt := range map[string]struct {
		prepare func(f *fixture)
		want    answers // of allNames; "" if Lookup has to decide
	}{
		"empty cache":                {func(*fixture) {}, none},
		"synced":                     {func(f *fixture) { f.warm() }, known},
		"synced, refresh due":        {func(f *fixture) { f.warm(); advance(55 * time.Minute) }, none},
		"synced, past max_age":       {func(f *fixture) { f.warm(); advance(time.Hour) }, none},
		"synced, down":               {func(f *fixture) { f.warm(); f.open() }, known},
		"synced, down, refresh due":  {func(f *fixture) { f.warm(); f.open(); advance(55 * time.Minute) }, known},
		"synced, down, past max_age": {func(f *fixture) { f.warm(); f.open(); advance(time.Hour) }, known},
		"degraded": {func(f *fixture) {
			f.api.set(func() { f.api.pollErr = errUnreachable })
			f.advanceTo(leaseEnd)
			f.warm()
		}, known},
		"degraded, to be revalidated": {func(f *fixture) {
			f.warm()
			f.api.set(func() { f.api.pollErr = errUnreachable })
			f.advanceTo(leaseEnd)
		}, none},
		"degraded, down": {func(f *fixture) {
			f.warm()
			f.api.set(func() { f.api.pollErr = errUnreachable })
			f.open()
			f.advanceTo(leaseEnd)
		}, recordAnswers},
		"cold, down": {func(f *fixture) {
			f.warm()
			f.api.set(func() { f.api.pollErr = errUnreachable })
			f.open()
			f.advanceTo(staleEnd)
		}, none},
		"cold, just resolved": {func(f *fixture) {
			f.api.set(func() { f.api.pollErr = errUnreachable })
			f.advanceTo(staleEnd)
			f.warm()
		}, none},
		"credential changed": {func(f *fixture) {
			f.warm()
			f.api.set(func() { f.api.sendDelay = time.Second }) // so that it is not revalidated
			f.api.change(digest("good"), revoked(goodKey("good")))
			f.api.change(digest("missing"), goodKey("missing"))
		}, answers{"", "revoked", "terminated", ""}},
		"account changed": {func(f *fixture) {
			f.warm()
			f.api.changeAccount("account-of-good", credential.Terminated)
			f.api.changeAccount("account-of-terminated", credential.Active)
		}, answers{"", "revoked", "", "unknown"}},
		"account changed, down": {func(f *fixture) {
			f.warm()
			f.open()
			f.api.changeAccount("account-of-good", credential.Terminated)
		}, answers{"", "revoked", "terminated", "unknown"}},
		"log replaced": {func(f *fixture) {
			f.warm()
			f.api.set(func() { f.api.resolveErr = errUnreachable })
			f.api.replace("two", 0)
		}, none},
		"expired": {func(f *fixture) {
			f.api.put(digest("good"), expires(goodKey("good"), time.Now().Add(time.Minute)))
			f.warm()
			advance(time.Minute)
		}, answers{"", "revoked", "terminated", "unknown"}}, // Lookup has to move it
		"expired and moved": {func(f *fixture) {
			f.api.put(digest("good"), expires(goodKey("good"), time.Now().Add(time.Minute)))
			f.warm()
			advance(time.Minute)
			f.wantHit("good", "expired")
		}, answers{"expired", "revoked", "terminated", "unknown"}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(f *fixture) {
				f.start()
				tt.prepare(f)
				synctest.Wait()
				f.wantCached(tt.want)
			})
		})
	}
}

// In time-to-live mode Cached obeys the time to live.
func TestCachedInTTLMode(t *testing.T) {
	bubble(t, changesOptional, func(f *fixture) {
		f.api.pollErr = sidecarapi.ErrNotOffered
		f.start()
		f.warm()
		advance(4 * time.Second)
		f.wantCached(allAnswers)
		advance(time.Second) // a refresh is due
		f.wantCached(answers{})
		f.open()
		advance(time.Minute)
		f.wantCached(recordAnswers)
		advance(15 * time.Minute)
		f.wantCached(answers{"", "revoked", "terminated", ""}) // what is denied stays denied
	})
}

// open has the circuit breaker open.
func (f *fixture) open() {
	f.t.Helper()
	f.api.set(func() { f.api.resolveErr = errUnreachable })
	for _, name := range names("probe", maxFailures) {
		f.want(name, "503")
	}
	if !f.down() {
		f.t.Fatal("the breaker is closed")
	}
}

// wantCached compares the outcomes of Cached; "" is none. It expects that Cached starts no load.
func (f *fixture) wantCached(want answers) {
	f.t.Helper()
	before := f.started()
	for i, name := range allNames {
		got, known := f.cached(name)
		if !known {
			got = ""
		}
		if got != want[i] {
			f.t.Errorf("%s is %q for Cached, want %q", name, got, want[i])
		}
	}
	if n := f.started() - before; n != 0 {
		f.t.Errorf("Cached has started %d loads", n)
	}
}

// started counts the loads in flight and the digests that were resolved.
func (f *fixture) started() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	resolved, _ := f.api.total()
	return resolved + len(f.loads)
}
