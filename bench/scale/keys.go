package main

import (
	"bufio"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/phantomrouter/phantom-authz/bench"
	"github.com/phantomrouter/phantom-authz/bench/result"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

const (
	baselineKeys = 1000
	accountCount = 100
	operators    = 16 // concurrent
	batches      = 5  // of mints and revocations, for their spread
	perBatch     = 400
)

// filled is a keyd with the content of its store.
type filled struct {
	*testbed.Testbed
	stores   *stores
	engine   string
	accounts []string
	digests  []credential.Digest
	client   *sidecarapi.Client
}

// measureKeys measures each engine with few keys and with all.
func measureKeys(ctx context.Context, s *stores) error {
	t := result.Table{
		Name:    "scale-keys",
		Caption: fmt.Sprintf("Mints and revocations of %d concurrent operators: medians of %d batches of %d (least to greatest).", operators, batches, perBatch),
		Columns: []string{
			"engine", "keys", "resolve 1: median, ms", "p99, ms", "maximum, ms", "resolve 1,000: median, ms", "p99, ms", "maximum, ms",
			"mints/s", "revocations/s", "bytes on disk for a key", "imported keys/s",
		},
	}
	err := s.each(ctx, func(engine string, tb *testbed.Testbed, _ *testbed.Process) error {
		f := &filled{Testbed: tb, stores: s, engine: engine}
		if err := f.connect(ctx); err != nil {
			return err
		}
		defer f.client.Close()
		rows, err := f.measureAll(ctx)
		t.Rows = append(t.Rows, rows...)
		return err
	})
	if err != nil {
		return err
	}
	bench.Report(t)
	return nil
}

// measureAll returns a row with few keys and one with all.
func (f *filled) measureAll(ctx context.Context) (rows []result.Row, err error) {
	empty, err := f.size(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range []int{baselineKeys, *keyCount} {
		rate, err := f.importKeys(ctx, n-len(f.digests))
		if err != nil {
			return nil, err
		}
		size, err := f.size(ctx)
		if err != nil {
			return nil, err
		}
		cells, err := f.measure(ctx)
		if err != nil {
			return nil, err
		}
		cells = slices.Concat([]result.Cell{result.Value(float64(n))}, cells,
			[]result.Cell{result.Value(float64((size - empty) / int64(n))), result.Value(rate)})
		rows = append(rows, result.Row{Name: f.engine, Cells: cells})
	}
	return rows, nil
}

func (f *filled) connect(ctx context.Context) (err error) {
	for range accountCount {
		account, err := f.CreateAccount(ctx)
		if err != nil {
			return err
		}
		f.accounts = append(f.accounts, account)
	}
	f.client, err = bench.SidecarClient(f.Testbed, time.Minute)
	return err
}

// importKeys imports n more keys, and returns the keys per second.
func (f *filled) importKeys(ctx context.Context, n int) (float64, error) {
	first := len(f.digests)
	for range n {
		var digest credential.Digest
		_, _ = crand.Read(digest[:]) // it never fails
		f.digests = append(f.digests, digest)
	}
	lines, in := io.Pipe()
	go func() {
		out := bufio.NewWriterSize(in, 1<<16)
		for i, digest := range f.digests[first:] {
			_, _ = fmt.Fprintf(out, `{"account":%q,"sha256":%q,"label":"imported"}`+"\n", f.accounts[i%accountCount], digest.Hex())
		}
		_ = in.CloseWithError(out.Flush())
	}()
	began := time.Now()
	_, _, err := f.Operators.ImportKeys(ctx, lines, 0, func(operatorapi.ImportProgress) {})
	return float64(n) / time.Since(began).Seconds(), errors.Join(err, lines.Close())
}

// size returns the size of the store on disk, including the change log and the audit.
func (f *filled) size(ctx context.Context) (bytes int64, err error) {
	if f.engine == "postgres" {
		c, err := pgx.Connect(ctx, f.stores.postgres.URL(f.stores.database))
		if err != nil {
			return 0, err
		}
		err = c.QueryRow(ctx, "SELECT pg_database_size(current_database())").Scan(&bytes)
		return bytes, errors.Join(err, c.Close(ctx))
	}
	for _, name := range []string{"keys.db", "keys.db-wal"} {
		info, err := os.Stat(f.File(name))
		if err != nil {
			return 0, err
		}
		bytes += info.Size()
	}
	return bytes, nil
}

// measure returns cells of a row.
func (f *filled) measure(ctx context.Context) ([]result.Cell, error) {
	one, err := f.resolve(ctx, 1, 5000)
	if err != nil {
		return nil, err
	}
	thousand, err := f.resolve(ctx, sidecarapi.MaxResolve, 200)
	if err != nil {
		return nil, err
	}
	var mints, revocations []float64
	for range batches {
		ids := make([]string, perBatch)
		rate, err := concurrently(ctx, perBatch, func(ctx context.Context, i int) error {
			answer, err := f.Operators.Do(ctx, operatorapi.MintKey(f.accounts[i%accountCount], operatorapi.NewKey{Label: "minted"}))
			if err == nil {
				ids[i] = answer.Key.ID
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		mints = append(mints, rate)
		rate, err = concurrently(ctx, perBatch, func(ctx context.Context, i int) error {
			_, err := f.Operators.Do(ctx, operatorapi.RevokeKey(ids[i]))
			return err
		})
		if err != nil {
			return nil, err
		}
		revocations = append(revocations, rate)
	}
	return slices.Concat(one.Cells(), thousand.Cells(), []result.Cell{result.Median(mints), result.Median(revocations)}), nil
}

// resolve times requests of n random digests each, after some that warm up.
func (f *filled) resolve(ctx context.Context, n, rounds int) (bench.Times, error) {
	const warm = 20
	var took []time.Duration
	digests := make([]credential.Digest, n)
	for i := range rounds + warm {
		for j := range digests {
			digests[j] = f.digests[rand.IntN(len(f.digests))]
		}
		began := time.Now()
		answer, err := f.client.Resolve(ctx, digests)
		if err != nil {
			return nil, err
		}
		if i >= warm {
			took = append(took, time.Since(began))
		}
		for _, r := range answer.Results {
			if r.Outcome != sidecarapi.Found {
				return nil, fmt.Errorf("an imported key was resolved with outcome %d", r.Outcome)
			}
		}
	}
	return bench.Sort(took), nil
}

// concurrently calls do n times from the operators, and returns the calls per second.
func concurrently(ctx context.Context, n int, do func(ctx context.Context, i int) error) (float64, error) {
	began := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(operators)
	for i := range n {
		group.Go(func() error { return do(ctx, i) })
	}
	err := group.Wait()
	return float64(n) / time.Since(began).Seconds(), err
}
