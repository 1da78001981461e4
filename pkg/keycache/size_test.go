package keycache

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// BenchmarkSize measures the heap for each of n credentials, and the processor time that a garbage collection takes for
// each. Accounts have five keys, with one of four sets of scopes; ids
// are as long as keyd's. The baseline is golang-lru with the same records.
func BenchmarkSize(b *testing.B) {
	const n = 200_000
	b.Run("golang-lru", func(b *testing.B) {
		measureSize(b, n, func() (any, func(credential.Digest, credential.Record)) {
			c, _ := lru.New[credential.Digest, credential.Record](n)
			return c, func(d credential.Digest, rec credential.Record) { c.Add(d, rec) }
		})
	})
	b.Run("keycache", func(b *testing.B) {
		measureSize(b, n, func() (any, func(credential.Digest, credential.Record)) {
			c, _ := warmed(b, 0, ownAccount)
			c.pools = newPools(2*n, n, c.leave)
			sent := &batch{generation: 1, sentAt: time.Now()}
			return c, func(d credential.Digest, rec credential.Record) {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.store(d, sent, 1, sidecarapi.Result{Outcome: sidecarapi.Found, Record: rec})
			}
		})
	})
}

func measureSize(b *testing.B, n int, open func() (any, func(credential.Digest, credential.Record))) {
	var bytes uint64
	var seconds float64
	for b.Loop() {
		before, _ := collect()
		cache, store := open()
		for i := range n {
			store(decoded(i))
		}
		collect() // what cleanups release is collected next
		after, took := collect()
		bytes, seconds = bytes+after-before, seconds+took
		runtime.KeepAlive(cache)
	}
	total := float64(b.N) * float64(n)
	b.ReportMetric(float64(bytes)/total, "B/credential")
	b.ReportMetric(seconds*1e9/total, "gc-ns/credential")
}

// collect runs a garbage collection. It returns the bytes in use after it, and its processor time.
func collect() (bytes uint64, seconds float64) {
	before := processorTime()
	runtime.GC()
	seconds = processorTime() - before
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc, seconds
}

// processorTime returns that of this process so far, in seconds.
func processorTime() float64 {
	var used syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used) // fails for invalid arguments only
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()).Seconds()
}

var scopeSets = [][]string{{"chat:companion"}, {"chat:companion", "images"}, {"admin", "billing", "chat:companion"}, nil}

// decoded returns a digest and its record with strings of its own, as a decoder makes them.
func decoded(i int) (credential.Digest, credential.Record) {
	var d credential.Digest
	for j := range len(d) / 8 {
		binary.LittleEndian.PutUint64(d[8*j:], rand.Uint64())
	}
	scopes := make([]string, 0, 4)
	for _, name := range scopeSets[i%len(scopeSets)] {
		scopes = append(scopes, strings.Clone(name))
	}
	return d, credential.Record{
		Kind: credential.Key, ID: fmt.Sprintf("key_%020d", i), State: credential.Active, Scopes: credential.NewScopes(scopes...),
		Account: credential.Account{ID: fmt.Sprintf("acc_%020d", i/5), State: credential.Active},
	}
}
