package keycache

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// reference is the two pools of a shard made of golang-lru.
type reference [2]*simplelru.LRU[credential.Digest, int64]

func newReference(known, unknown int) (r reference, left *[]credential.Digest) {
	left = new([]credential.Digest)
	for id, limit := range []int{known, unknown} {
		r[id], _ = simplelru.NewLRU(limit, func(d credential.Digest, _ int64) { *left = append(*left, d) })
	}
	return r, left
}

func (r reference) store(d credential.Digest, to poolID, revision int64) {
	r[knownPool].Remove(d)
	r[unknownPool].Remove(d)
	r[to].Add(d, revision)
}

// A shard keeps and evicts the same entries in the same order as golang-lru, over several chunks
// and sizes of its table.
func TestShardIsTwoLRULists(t *testing.T) {
	const known, unknown = 3 * chunkSize, chunkSize / 2
	rng := rand.New(rand.NewPCG(1, 2))
	digests := make([]credential.Digest, 2*(known+unknown))
	for i := range digests {
		digests[i] = digest(fmt.Sprint(i))
	}
	var left []credential.Digest
	s := &newPools(known, unknown, func(e *entry) { left = append(left, e.digest) })[0]
	want, wantLeft := newReference(known, unknown)
	evictions := 0
	for step := range int64(50_000) {
		d, to := digests[rng.IntN(len(digests))], poolID(rng.IntN(8)/7)
		if step < 100 {
			to = knownPool // so that the other one is empty
		}
		switch rng.IntN(4) {
		case 0:
			s.store(entry{digest: d, pool: to, revision: step})
			want.store(d, to, step)
		case 1:
			if i := s.find(&d); i != 0 && s.at(i).pool != to {
				revision, _ := want[1-to].Peek(d)
				want[1-to].Remove(d)
				*wantLeft = (*wantLeft)[:len(*wantLeft)-1] // it has moved
				want[to].Add(d, revision)
				s.move(i, to)
			}
		default:
			e := s.get(d, moment{mono: step})
			revision, known := want[knownPool].Get(d)
			if !known {
				revision, _ = want[unknownPool].Get(d)
			}
			if e == nil && (known || want[unknownPool].Contains(d)) || e != nil && (e.revision != revision || e.used != step) {
				t.Fatalf("step %d: %+v, want revision %d", step, e, revision)
			}
		}
		if !slices.Equal(left, *wantLeft) {
			t.Fatalf("step %d: %v have left, want %v", step, left, *wantLeft)
		}
		evictions += len(left)
		left, *wantLeft = left[:0], (*wantLeft)[:0]
		if step%1000 != 0 {
			continue
		}
		for id, pool := range want {
			var keys []credential.Digest
			for _, e := range s.all(poolID(id)) {
				keys = append(keys, e.digest)
			}
			if !slices.Equal(keys, pool.Keys()) || s.pools[id].size != pool.Len() {
				t.Fatalf("step %d: the order of pool %d is different", step, id)
			}
		}
	}
	if n := s.pools[knownPool].size; n != known || len(s.chunks) != 4 || evictions < 1000 {
		t.Errorf("%d known entries in %d chunks, %d have left", n, len(s.chunks), evictions)
	}
}

// An entry's size times the number of credentials is most of a sidecar's memory.
func TestEntrySize(t *testing.T) {
	if size := unsafe.Sizeof(entry{}); size > 136 {
		t.Errorf("an entry takes %d bytes", size)
	}
	const class = 16384 // of the allocator; it keeps 8 bytes of it
	if size := unsafe.Sizeof([chunkSize]entry{}); size > class-8 || size < class*99/100 {
		t.Errorf("a chunk takes %d bytes, want nearly %d", size, class)
	}
}

// A record is the same after it was cached.
func TestCachedRecord(t *testing.T) {
	now := time.Now().UTC().Round(0)
	for _, rec := range []credential.Record{
		goodKey("a"),
		revoked(goodKey("a")),
		terminated(goodKey("a")),
		expires(goodKey("a"), now.Add(time.Nanosecond)),
		expires(goodKey("a"), now.Add(-100*365*24*time.Hour)),
		expires(goodKey("a"), time.Unix(0, math.MaxInt64).UTC()),
		expires(goodKey("a"), time.Unix(0, math.MinInt64).UTC()),
		{
			Kind: credential.Session, ID: "s", State: credential.Active, Scopes: credential.NewScopes("b", "a"),
			Account: credential.Account{ID: "account", State: credential.Active},
		},
	} {
		c, _ := warmed(t, 1, ownAccount)
		c.mu.Lock()
		c.store(digest("d"), &batch{generation: 1, sentAt: now}, 1, sidecarapi.Result{Outcome: sidecarapi.Found, Record: rec})
		c.mu.Unlock()
		got := c.pools.of(digest("d")).entry(digest("d")).record()
		if got.Kind != rec.Kind || got.ID != rec.ID || got.State != rec.State || got.Account != rec.Account ||
			!got.ExpiresAt.Equal(rec.ExpiresAt) || got.ExpiresAt.IsZero() != rec.ExpiresAt.IsZero() || !got.Scopes.Equal(rec.Scopes) {
			t.Errorf("%+v, want %+v", got, rec)
		}
	}
}

// A time that nanoseconds cannot represent neither expires early nor late, nor means never.
func TestTimesOutOfRange(t *testing.T) {
	at := func(year int) time.Time { return time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC) }
	for _, tt := range []struct {
		expires time.Time
		expired bool
	}{
		{time.Time{}, false},
		{time.Time{}.Add(1), true},
		{at(1), false}, // the zero time
		{at(2), true},
		{at(1500), true},
		{time.Unix(0, 0), true},
		{at(2100), false},
		{at(2500), false},
		{at(9999), false},
	} {
		e := entry{expires: nanoseconds(tt.expires)}
		if got := e.expired(momentOf(time.Now())); got != tt.expired {
			t.Errorf("%s: expired is %t", tt.expires, got)
		}
	}
}

// Entries share accounts and sets of scopes, which are deleted with their last entry.
func TestSharedAccountsAndScopes(t *testing.T) {
	bubble(t, func(o *Options) { unlimited(o); o.Known, o.Unknown = 20, 10 }, func(f *fixture) {
		f.start()
		keys, sets := names("key", 60), []credential.Scopes{{}, credential.NewScopes("a"), credential.NewScopes("b", "a")}
		put := func(change func(credential.Record) credential.Record) {
			for i, name := range keys {
				rec := keyOf(fmt.Sprint("account-", i/6), name)
				rec.Scopes = sets[i/6%3]
				f.api.put(digest(name), change(rec))
			}
		}
		put(func(r credential.Record) credential.Record { return r })
		for _, name := range keys {
			f.want(name, "good")
		}
		f.sizes(20, 0)
		if len(f.accounts) != 4 || len(f.scopeSets) != 2 {
			t.Errorf("%d accounts and %d sets of scopes", len(f.accounts), len(f.scopeSets))
		}
		for i, name := range keys[40:] {
			rec, found, known := f.Cached(digest(name))
			if !known || !found || !rec.Scopes.Equal(sets[(40+i)/6%3]) || rec.ID != "key-"+name {
				t.Errorf("%s is %+v", name, rec)
			}
		}
		// All are replaced by unknown digests.
		f.api.set(func() { clear(f.api.facts) })
		f.api.replace("two", 0)
		advance(time.Minute)
		f.sizes(0, 10)
		if len(f.accounts) != 0 || len(f.scopeSets) != 0 {
			t.Errorf("%d accounts and %d sets of scopes are left", len(f.accounts), len(f.scopeSets))
		}
	})
}
