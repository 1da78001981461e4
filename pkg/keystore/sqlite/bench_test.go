package sqlite

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

const benchKeys = 20_000

func numbered(n int) (d credential.Digest) {
	binary.BigEndian.PutUint64(d[:], uint64(n)*0x9e3779b97f4a7c15) // scattered, as hashes are
	return d
}

// filled is a store with benchKeys keys of 100 accounts.
func filled(b *testing.B) *Store {
	b.Helper()
	s, err := Open(b.Context(), filepath.Join(b.TempDir(), "keys.db"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	const accounts = 100
	for i := range accounts {
		if _, err := s.CreateAccount(b.Context(), "operator:bench", fmt.Sprintf("acc_%d", i), "bench"); err != nil {
			b.Fatal(err)
		}
	}
	_, err = sqlstore.Mutate(b.Context(), s, "fill", "", func(t *sqlstore.Tx) (struct{}, error) {
		for i := range benchKeys {
			t.InsertKey(keystore.Key{
				ID: fmt.Sprintf("key_%d", i), Account: fmt.Sprintf("acc_%d", i%accounts), Digest: numbered(i), Label: "bench", Hint: "phk_0000",
				Scopes: credential.NewScopes("chat:companion"), CreatedAt: t.Now, CreatedBy: "operator:bench",
			})
		}
		return struct{}{}, nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func BenchmarkResolve(b *testing.B) {
	s := filled(b)
	for _, size := range []int{1, 30, 1000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			digests := make([]credential.Digest, size)
			for i := 0; b.Loop(); i++ {
				for j := range digests {
					digests[j] = numbered((i*size + j) * 7919 % benchKeys)
				}
				_, facts, err := s.Resolve(b.Context(), digests)
				if err != nil || !facts[size-1].Found {
					b.Fatal(facts[size-1], err)
				}
			}
		})
	}
}

func BenchmarkMint(b *testing.B) {
	s := filled(b)
	for i := 0; b.Loop(); i++ {
		_, err := s.CreateKey(b.Context(), "operator:bench", keystore.NewKey{
			ID: fmt.Sprintf("key_m%d", i), Account: "acc_1", Digest: numbered(benchKeys + i), Label: "bench", Hint: "phk_0000",
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// One iteration is the largest possible report.
func BenchmarkUsage(b *testing.B) {
	s := filled(b)
	used := make([]keystore.Usage, 10_000)
	for b.Loop() {
		for i := range used {
			used[i] = keystore.Usage{Digest: numbered(i), LastUsedAt: s.clock.wall(), Allowed: 1}
		}
		if err := s.RecordUsage(b.Context(), "sidecar", used); err != nil {
			b.Fatal(err)
		}
	}
}

// One iteration is one poll. 500 sidecars have one in flight at any moment.
func BenchmarkPolls(b *testing.B) {
	s := filled(b)
	head, err := s.Head(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	b.SetParallelism(250)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		p := keystore.Poll{Sidecar: credential.RandomBase62(8), Epoch: head.Epoch, Revision: head.Revision, Lease: 15e9, MaxStale: 900e9}
		for pb.Next() {
			if err := recordPoll(b.Context(), s, p); err != nil {
				b.Fatal(err)
			}
		}
	})
}
