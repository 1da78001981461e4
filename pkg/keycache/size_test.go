package keycache

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// BenchmarkSize measures the heap for each of n credentials. Accounts have five keys, with one of four sets of scopes; ids
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
	var used uint64
	for b.Loop() {
		before := heap()
		cache, store := open()
		for i := range n {
			store(decoded(i))
		}
		used += heap() - before
		runtime.KeepAlive(cache)
	}
	b.ReportMetric(float64(used)/float64(b.N)/float64(n), "B/credential")
}

// heap returns the bytes in use after a collection.
func heap() uint64 {
	runtime.GC()
	runtime.GC() // for what cleanups of the first release
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
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
