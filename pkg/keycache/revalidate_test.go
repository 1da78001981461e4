package keycache

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// Invalidated entries are revalidated in batches, the most recently used first. Each answers when
// its own batch is back.
func TestRevalidationStartsWithTheMostRecentlyUsed(t *testing.T) {
	bubble(t, func(o *Options) { unlimited(o); o.Known = 10_000 }, func(f *fixture) {
		f.start()
		keys := names("key", 2500)
		for _, name := range keys {
			f.api.put(digest(name), goodKey(name))
		}
		for group := range slices.Chunk(keys, 500) { // the last is the most recently used
			f.concurrently(group)
			advance(time.Second)
		}
		f.want(keys[0], "good")
		f.api.set(func() { f.api.replyDelay = 500 * time.Millisecond / 2 })
		f.api.timeout = time.Second
		f.api.resetCounts()
		f.api.replace("two", 0)
		advance(revalidateSpread + 400*time.Millisecond)
		f.api.mu.Lock()
		resolves := slices.Clone(f.api.resolves)
		f.api.mu.Unlock()
		if len(resolves) < 1 || len(resolves[0].digests) != sidecarapi.MaxResolve {
			t.Fatalf("%d resolves so far", len(resolves))
		}
		first := resolves[0].digests
		if first[0] != digest(keys[0]) {
			t.Error("the most recently used credential is not the first")
		}
		inFirst := func(list []string) (n int) {
			for _, name := range list {
				if slices.Contains(first, digest(name)) {
					n++
				}
			}
			return n
		}
		if last, before := inFirst(keys[2000:]), inFirst(keys[1500:2000]); last != 500 || before != 499 {
			t.Errorf("the first batch has %d of the last 500 and %d of the 500 before", last, before)
		}
		f.wantHit(keys[2400], "good")
		advance(5 * time.Second)
		for _, name := range keys {
			f.wantHit(name, "good")
		}
		if digests, requests := f.api.total(); digests != len(keys) || requests != 3 {
			t.Errorf("%d digests in %d resolves", digests, requests)
		}
	})
}

// Sidecars that lost the same log revalidate at different moments.
func TestRevalidationIsSpread(t *testing.T) {
	moments := make(map[time.Duration]bool)
	for range 20 {
		bubble(t, nil, func(f *fixture) {
			f.start()
			f.warm()
			f.api.resetCounts()
			lost := time.Now()
			f.api.replace("two", 0)
			advance(time.Second)
			moments[f.api.resolves[0].at.Sub(lost)] = true
		})
	}
	if len(moments) < 15 {
		t.Errorf("20 sidecars revalidate at %d moments", len(moments))
	}
}

// An invalidation ends the revalidation of the one before, and an outage ends none.
func TestRevalidationSurvivesAnOutage(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.start()
		f.warm()
		f.api.set(func() { f.api.resolveErr = errUnreachable })
		for _, epoch := range []string{"two", "three", "four"} {
			f.api.replace(epoch, 0)
			synctest.Wait()
		}
		advance(time.Minute)
		f.api.set(func() { f.api.resolveErr = nil })
		advance(2 * time.Second)
		f.api.resetCounts()
		f.wantEach(f.wantHit, recordAnswers)
		advance(time.Minute)
		if digests, _ := f.api.total(); digests != 0 {
			t.Errorf("%d digests are still resolved", digests)
		}
	})
}

// A revalidation ends with its generation, even while the key API is down.
func TestRevalidationEndsWithItsGeneration(t *testing.T) {
	bubble(t, nil, func(f *fixture) {
		f.start()
		f.api.disconnect()
		for _, name := range names("n", maxFailures) {
			f.want(name, "503")
		}
		generation := f.state.Load().generation
		if f.revalidateBatch(generation, nil) {
			t.Error("done while the key API is down")
		}
		if !f.revalidateBatch(generation-1, nil) {
			t.Error("a revalidation of an earlier generation continues")
		}
	})
}
