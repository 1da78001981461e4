package main

import (
	"bufio"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/phantomrouter/phantom-authz/bench/sample"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

const (
	few       = 1000 // keys of the baseline
	accounts  = 100
	operators = 16 // at once
	batches   = 5  // of mints, for their spread
	perBatch  = 400
)

// filled is one keyd with what its store holds.
type filled struct {
	*testbed.Testbed
	engine   string
	accounts []string
	digests  []credential.Digest
	client   *sidecarapi.Client
}

// allKeys measures each engine with few keys and with all.
func (b *bench) allKeys(ctx context.Context, engines []string) error {
	fmt.Printf("Medians; mints and revocations by %d operators at once, %d batches of %d (least to greatest).\n\n", operators, batches, perBatch)
	fmt.Println("| engine | keys | resolve 1: median | p99 | longest | resolve 1,000: median | p99 | longest | mints/s | revocations/s | bytes on disk for a key |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|---|")
	for _, engine := range engines {
		err := b.in(ctx, engine, func(site *testbed.Testbed, _ *testbed.Process) error {
			return b.inStore(ctx, &filled{Testbed: site, engine: engine})
		})
		if err != nil {
			return fmt.Errorf("%s: %w", engine, err)
		}
	}
	return nil
}

func (b *bench) inStore(ctx context.Context, f *filled) error {
	if err := f.connect(ctx); err != nil {
		return err
	}
	defer f.client.Close()
	empty, err := b.size(ctx, f)
	if err != nil {
		return err
	}
	var rates []float64
	for _, n := range []int{few, b.keys} {
		rate, err := f.fill(ctx, n-len(f.digests))
		if err != nil {
			return err
		}
		rates = append(rates, rate)
		size, err := b.size(ctx, f)
		if err != nil {
			return err
		}
		row, err := f.measure(ctx)
		if err != nil {
			return err
		}
		fmt.Printf("| %s | %d | %s | %d |\n", f.engine, n, row, (size-empty)/int64(n))
	}
	fmt.Printf("| %s | | imported %.0f keys a second | | | | | | | | |\n", f.engine, rates[1])
	return nil
}

func (f *filled) connect(ctx context.Context) error {
	for range accounts {
		account, err := f.CreateAccount(ctx)
		if err != nil {
			return err
		}
		f.accounts = append(f.accounts, account)
	}
	token, err := f.SidecarToken()
	f.client = sidecarapi.New(sidecarapi.Options{
		URL:     &url.URL{Scheme: "unix", Path: f.Socket("sidecars")},
		Token:   func() credential.Secret { return token },
		Timeout: time.Minute,
	})
	return err
}

// fill imports n more keys, and returns how many in a second.
func (f *filled) fill(ctx context.Context, n int) (float64, error) {
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
			_, _ = fmt.Fprintf(out, `{"account":%q,"sha256":%q,"label":"imported"}`+"\n", f.accounts[i%accounts], digest.Hex())
		}
		_ = in.CloseWithError(out.Flush())
	}()
	began := time.Now()
	_, _, err := f.Operators.ImportKeys(ctx, lines, 0, func(operatorapi.ImportProgress) {})
	return float64(n) / time.Since(began).Seconds(), errors.Join(err, lines.Close())
}

// size is what the store takes on disk, its log and audit included.
func (b *bench) size(ctx context.Context, f *filled) (bytes int64, err error) {
	if f.engine == "postgres" {
		c, err := pgx.Connect(ctx, b.postgres.URL(b.database))
		if err != nil {
			return 0, err
		}
		err = c.QueryRow(ctx, "SELECT pg_database_size(current_database())").Scan(&bytes)
		return bytes, errors.Join(err, c.Close(ctx))
	}
	for _, name := range []string{"keys.db", "keys.db-wal"} {
		var stat syscall.Stat_t
		if err := syscall.Stat(filepath.Join(f.Dir, name), &stat); err != nil {
			return 0, &os.PathError{Op: "stat", Path: name, Err: err}
		}
		bytes += stat.Size
	}
	return bytes, nil
}

// measure returns the cells of a row.
func (f *filled) measure(ctx context.Context) (string, error) {
	one, err := f.resolve(ctx, 1, 5000)
	if err != nil {
		return "", err
	}
	thousand, err := f.resolve(ctx, sidecarapi.MaxResolve, 200)
	if err != nil {
		return "", err
	}
	var mints, revocations []float64
	for range batches {
		ids := make([]string, perBatch)
		rate, err := atOnce(ctx, perBatch, func(ctx context.Context, i int) error {
			answer, err := f.Operators.Do(ctx, operatorapi.MintKey(f.accounts[i%accounts], operatorapi.NewKey{Label: "minted"}))
			if err == nil {
				ids[i] = answer.Key.ID
			}
			return err
		})
		if err != nil {
			return "", err
		}
		mints = append(mints, rate)
		rate, err = atOnce(ctx, perBatch, func(ctx context.Context, i int) error {
			_, err := f.Operators.Do(ctx, operatorapi.RevokeKey(ids[i]))
			return err
		})
		if err != nil {
			return "", err
		}
		revocations = append(revocations, rate)
	}
	return fmt.Sprintf("%s | %s | %s | %s", one, thousand, sample.Spread(mints, "%.0f"), sample.Spread(revocations, "%.0f")), nil
}

// resolve times look-ups of n digests each, taken at random from all that there are,
// after some that warm up.
func (f *filled) resolve(ctx context.Context, n, rounds int) (sample.Times, error) {
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
				return nil, fmt.Errorf("a key that was imported: outcome %d", r.Outcome)
			}
		}
	}
	return sample.Of(took), nil
}

// atOnce does something n times with several operators at once, and returns how
// often a second.
func atOnce(ctx context.Context, n int, do func(ctx context.Context, i int) error) (float64, error) {
	began := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(operators)
	for i := range n {
		group.Go(func() error { return do(ctx, i) })
	}
	err := group.Wait()
	return float64(n) / time.Since(began).Seconds(), err
}
