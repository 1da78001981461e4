package keycache

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// TestInspect: what it reports in each mode. That it agrees with Cached is checked at each look-up of all
// tests (harness_test.go).
func TestInspect(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		check := func(about, name string, want Inspection) {
			t.Helper()
			if diff := cmp.Diff(want, f.Inspect(digest(name))); diff != "" {
				t.Errorf("%s (-want +got):\n%s", about, diff)
			}
		}
		check("before the first lease", "good", Inspection{Mode: "cold"})
		f.start()
		f.want("good", "good")
		f.want("missing", "unknown")
		before := f.api.resolvedCount(digest("good"))
		advance(time.Second)
		lease := Inspection{Mode: "synced", LeaseLeft: leaseEnd - time.Since(f.began()), StaleLeft: staleEnd - time.Since(f.began())}
		check("not cached", "revoked", lease)
		age := f.Inspect(digest("good")).Entry.Age
		if age < time.Second || age > 2*time.Second {
			t.Errorf("age %v", age)
		}
		with := func(i Inspection, e InspectedEntry) Inspection { i.Entry = &e; return i }
		check("in force", "good", with(lease, InspectedEntry{InForce: true, Found: true, Age: age, Freshness: "fresh"}))
		check("unknown", "missing", with(lease, InspectedEntry{Age: f.Inspect(digest("missing")).Entry.Age, Freshness: "fresh"}))

		f.api.disconnect()
		f.advanceTo(leaseEnd)
		for range maxFailures {
			f.want("good", "good")
		}
		got := f.Inspect(digest("good"))
		want := with(Inspection{Mode: "degraded", StaleLeft: staleEnd - time.Since(f.began()), ResolvesFail: true, PollsFail: got.PollsFail},
			InspectedEntry{InForce: true, Found: true, Age: got.Entry.Age, Freshness: "stale", MayServe: true})
		check("served stale", "good", want)
		f.advanceTo(staleEnd)
		check("stale time over", "good", with(Inspection{Mode: "cold", ResolvesFail: true, PollsFail: true},
			InspectedEntry{InForce: true, Found: true, Age: f.Inspect(digest("good")).Entry.Age, Invalidated: f.Inspect(digest("good")).Entry.Invalidated, Freshness: "stale"}))
		if n := f.api.resolvedCount(digest("good")) - before; n == 0 || f.api.resolvedCount(digest("revoked")) != 0 {
			t.Errorf("%d resolves", n)
		}
	})
}

func TestInspectAfterAChange(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.start()
		f.want("good", "good")
		f.api.set(func() { f.api.resolveErr = errUnreachable })
		f.api.change(digest("good"), revoked(goodKey("good")))
		advance(time.Second)
		if e := f.Inspect(digest("good")).Entry; e == nil || !e.Invalidated || e.Freshness != "stale" || e.MayServe {
			t.Errorf("%+v", e)
		}
	})
}

// TestInspectExpired: an expired credential is not in force, before it has left its pool.
func TestInspectExpired(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.start()
		f.api.put(digest("short"), expires(goodKey("short"), time.Now().Add(time.Minute)))
		f.want("short", "good")
		advance(time.Minute)
		if e := f.Inspect(digest("short")).Entry; e == nil || e.InForce || e.Freshness != "stale" {
			t.Errorf("%+v", e)
		}
	})
}

// TestInspectChangesNothing: neither the order of eviction nor a metric.
func TestInspectChangesNothing(t *testing.T) {
	bubble(t, func(o *Options) { o.Known = 2 }, func(f *fixture) {
		f.start()
		for _, name := range []string{"a", "b"} {
			f.api.put(digest(name), goodKey(name))
			f.want(name, "good")
		}
		_ = f.Inspect(digest("a"))
		f.want("good", "good") // evicts the least recently used one
		if f.Inspect(digest("a")).Entry != nil || f.Inspect(digest("b")).Entry == nil {
			t.Error("Inspect counts as a use")
		}
		var none credential.Digest
		if f.Inspect(none).Entry != nil {
			t.Error("found")
		}
	})
}
