package keycache

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// warmed returns a cache under a lease that holds n good keys, and their digests.
func warmed(b testing.TB, n int, account func(i int) string) (*Cache, []credential.Digest) {
	b.Helper()
	o := options()
	o.Known, o.Unknown = 2*n, n
	c := New(newFakeAPI(), o)
	b.Cleanup(c.Close)
	// The lease outlives the benchmark.
	c.state.Store(&state{generation: 1, epoch: "one", sent: momentOf(time.Now()), lease: 24 * time.Hour})
	digests := make([]credential.Digest, n)
	batch := &batch{generation: 1, sentAt: time.Now()}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range digests {
		name := fmt.Sprint("key-", i)
		digests[i] = digest(name)
		c.store(digests[i], batch, 1, sidecarapi.Result{Outcome: sidecarapi.Found, Record: keyOf(account(i), name)})
	}
	return c, digests
}

func ownAccount(i int) string  { return fmt.Sprint("account-", i) }
func sharedAccount(int) string { return "shared" }

const benchEntries = 50_000

// BenchmarkHit measures a cache hit. Its baseline is golang-lru's Get of the same record: a cache
// without leases, pools and accounts.
func BenchmarkHit(b *testing.B) {
	c, digests := warmed(b, benchEntries, ownAccount)
	baseline, _ := lru.New[credential.Digest, credential.Record](2 * benchEntries)
	for _, d := range digests {
		baseline.Add(d, keyOf("account", "key"))
	}
	ctx := context.Background()
	look := map[string]func(credential.Digest) bool{
		"keycache":   func(d credential.Digest) bool { _, found, err := c.Lookup(ctx, d); return found && err == nil },
		"golang-lru": func(d credential.Digest) bool { _, found := baseline.Get(d); return found },
	}
	for _, name := range []string{"golang-lru", "keycache"} {
		get := look[name]
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if !get(digests[i*7919%benchEntries]) {
					b.Fatal("a miss")
				}
			}
		})
		b.Run(name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if !get(digests[i*7919%benchEntries]) {
						b.Error("a miss")
						return
					}
				}
			})
		})
	}
}

// BenchmarkRefused measures a look-up that gets no token, while some thousands wait.
func BenchmarkRefused(b *testing.B) {
	c, _ := warmed(b, 1, ownAccount)
	c.SetAdmission(Admission{PerSecond: 1, Burst: 0})
	ctx := context.Background()
	var last atomic.Uint64
	b.ReportAllocs()
	b.SetParallelism(4000)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			var d credential.Digest
			binary.LittleEndian.PutUint64(d[:], last.Add(1))
			if _, _, err := c.Lookup(ctx, d); !errors.Is(err, credential.ErrRateLimited) {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkAccountChange measures a change of an account, by the number of its keys.
func BenchmarkAccountChange(b *testing.B) {
	for _, n := range []int{1, 1000, 100_000} {
		b.Run(fmt.Sprint(n, " keys"), func(b *testing.B) {
			c, _ := warmed(b, n, sharedAccount)
			change := sidecarapi.Changes{Epoch: "one", List: []sidecarapi.AppliedChange{{Account: "shared"}}}
			b.ReportAllocs()
			for i := int64(2); b.Loop(); i++ {
				change.Revision, change.List[0].Revision = i, i
				c.mu.Lock()
				c.apply(change)
				c.mu.Unlock()
			}
		})
	}
}

// Every request pays for a hit, so it allocates nothing.
func TestHitDoesNotAllocate(t *testing.T) {
	c, digests := warmed(t, 1000, ownAccount)
	ctx, i := context.Background(), 0
	if n := testing.AllocsPerRun(1000, func() {
		if _, found, err := c.Lookup(ctx, digests[i%len(digests)]); !found || err != nil {
			t.Fatal(found, err)
		}
		if _, found, known := c.Cached(digests[i%len(digests)]); !found || !known {
			t.Fatal(found, known)
		}
		i++
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
