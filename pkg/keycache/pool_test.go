package keycache

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// sizes compares the sizes of the pools, and holds that each account counts its entries.
func (f *fixture) sizes(known, unknown int) {
	f.t.Helper()
	synctest.Wait()
	if k, u := f.pools.sizes(); k != known || u != unknown {
		f.t.Errorf("%d known and %d unknown, want %d and %d", k, u, known, unknown)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	count := make(map[*account]int)
	for i := range f.pools.shards {
		for _, p := range []*pool{f.pools.shards[i].known, f.pools.shards[i].unknown} {
			for _, e := range p.Values() {
				if e.account != nil {
					count[e.account]++
				}
			}
		}
	}
	if len(count) != len(f.accounts) {
		f.t.Errorf("%d accounts are kept for the entries of %d", len(f.accounts), len(count))
	}
	for id, a := range f.accounts {
		if a.entries != count[a] {
			f.t.Errorf("%s counts %d entries, has %d", id, a.entries, count[a])
		}
	}
}

// Credentials that are not in force evict none that is.
func TestOnlyCredentialsInForceAreKnown(t *testing.T) {
	for name, end := range map[string]func(credential.Record) credential.Record{
		"revoked":    revoked,
		"terminated": terminated,
		"expired":    func(r credential.Record) credential.Record { return expires(r, time.Now()) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(o *Options) { plenty(o); o.Known, o.Unknown = 100, 50 }, func(f *fixture) {
				f.follow()
				good, bad := names("good", 100), names("bad", 3000)
				for _, name := range good {
					f.api.put(digest(name), goodKey(name))
				}
				for _, name := range bad {
					f.api.put(digest(name), end(keyOf("shared", name)))
				}
				f.together(good)
				f.sizes(100, 0)
				for range 2 {
					f.together(bad)
				}
				f.sizes(100, 50)
				for _, name := range good {
					f.wantFromMemory(name, "good")
				}
			})
		})
	}
}

// An entry moves when its state changes.
func TestEntriesMoveBetweenThePools(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.follow()
		f.want("good", "good")
		f.sizes(1, 0)
		// A change of the credential.
		f.api.change(digest("good"), revoked(goodKey("good")))
		pass(5 * time.Millisecond)
		f.sizes(0, 1)
		f.wantFromMemory("good", "revoked")
		f.api.change(digest("good"), goodKey("good"))
		pass(5 * time.Millisecond)
		f.wantFromMemory("good", "good")
		f.sizes(1, 0)
		// A change of its account.
		f.api.changeAccount("account-of-good", credential.Terminated)
		synctest.Wait()
		f.want("good", "terminated")
		f.sizes(0, 1)
		f.api.changeAccount("account-of-good", credential.Active)
		synctest.Wait()
		f.want("good", "good")
		f.sizes(1, 0)
		// An import, and its end.
		f.want("imported", "unknown")
		f.sizes(1, 1)
		f.api.change(digest("imported"), goodKey("imported"))
		synctest.Wait()
		f.want("imported", "good")
		f.sizes(2, 0)
	})
}

// An entry that expires moves on its next use, without a resolve; its account's changes reach it
// there too.
func TestExpiredEntriesMove(t *testing.T) {
	bubble(t, func(o *Options) { o.Known = 10 }, func(f *fixture) {
		f.follow()
		for _, name := range names("key", 10) {
			f.api.put(digest(name), expires(keyOf("shared", name), time.Now().Add(time.Minute)))
			f.want(name, "good")
		}
		f.sizes(10, 0)
		pass(time.Minute - time.Millisecond)
		f.sizes(10, 0)
		pass(time.Millisecond)
		for i, name := range names("key", 10) {
			f.wantFromMemory(name, "expired")
			f.sizes(9-i, i+1)
			f.wantFromMemory(name, "expired")
		}
		f.api.changeAccount("shared", credential.Terminated)
		synctest.Wait()
		f.wantResolved("key-3", "expired")
		f.wantFromMemory("key-3", "expired")
		f.sizes(0, 10)
	})
}

// Revoked keys that were cached are revalidated too when the log is replaced, after those in
// force.
func TestRevokedEntriesAreRevalidatedLast(t *testing.T) {
	bubble(t, func(o *Options) { plenty(o); o.Known, o.Unknown = 10_000, 10_000 }, func(f *fixture) {
		f.follow()
		good, bad := names("good", 1000), names("bad", 1000)
		for i := range good {
			f.api.put(digest(good[i]), goodKey(good[i]))
			f.api.put(digest(bad[i]), revoked(goodKey(bad[i])))
		}
		f.together(good)
		pass(time.Second)
		f.together(bad) // hotter
		f.together(names("unknown", 1000))
		f.api.forgetSeen()
		f.api.replace("two", 0)
		pass(10 * time.Second)
		if digests, requests := f.api.total(); digests != 2000 || requests != 2 {
			t.Errorf("%d digests in %d requests", digests, requests)
		}
		first := make(map[credential.Digest]bool)
		for _, d := range f.api.resolves[0].digests {
			first[d] = true
		}
		for _, name := range good {
			if !first[digest(name)] {
				t.Fatalf("%s is not in the first batch", name)
			}
		}
		f.wantFromMemory(bad[7], "revoked")
	})
}
