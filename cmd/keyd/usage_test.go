package main

import (
	"syscall"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

// What running sidecars have let in and denied comes to be counted, with no trace in the change log.
// A sidecar that is killed loses what it had not told, and nothing else.
func TestUsageOfRunningSidecars(t *testing.T) {
	bin := t.TempDir()
	if err := testbed.Build(t.Context(), bin, "cmd/keyd", "cmd/authzd"); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, bin)
	account, err := w.site.CreateAccount(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	key := w.mint(account)
	began := time.Now()
	check := func(sidecar string, times int, reason string) {
		t.Helper()
		checks, err := w.site.CheckClient(sidecar)
		if err != nil {
			t.Fatal(err)
		}
		defer checks.Close()
		for range times {
			if a, err := checks.CheckAsEnvoy(t.Context(), key.Secret); err != nil || a.Reason != reason {
				t.Fatalf("%s: %v, %v", sidecar, a, err)
			}
		}
	}
	sidecars := map[string]*testbed.Process{}
	for _, name := range []string{"one", "two", "killed"} {
		p, err := w.site.StartAuthzd(t.Context(), name, nil)
		if err != nil {
			t.Fatal(err)
		}
		sidecars[name] = p
		check(name, 5, "ok")
	}
	answer, err := w.site.Operators.Do(t.Context(), operatorapi.RevokeKey(key.ID).Waiting(time.Minute))
	if err != nil || !answer.Change.Effective {
		t.Fatal(answer.Change, err)
	}
	check("one", 2, "key_revoked")
	check("killed", 2, "key_revoked")
	for name, signal := range map[string]syscall.Signal{"one": syscall.SIGTERM, "two": syscall.SIGTERM, "killed": syscall.SIGKILL} {
		if _, err := sidecars[name].Stop(signal); err != nil {
			t.Fatal(err)
		}
	}
	var allowed, denied int64
	hours, err := w.site.Operators.KeyUsage(t.Context(), key.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, hour := range hours.Items {
		allowed, denied = allowed+hour.Allowed, denied+hour.Denied
	}
	if allowed != 10 || denied != 2 {
		t.Errorf("%d allowed and %d denied in %v, of 10 and 2 that were told", allowed, denied, hours.Items)
	}
	got, err := w.site.Operators.Do(t.Context(), operatorapi.GetKey(key.ID))
	if used := got.Key.LastUsedAt; err != nil || used == nil || used.Before(began) || used.After(time.Now()) {
		t.Errorf("last used %v, %v", used, err)
	}
	if head, err := w.site.Operators.Do(t.Context(), operatorapi.Revision(answer.Change.Revision+1)); err == nil {
		t.Errorf("usage is in the change log: %+v", head.Change)
	}
}
