// Command change measures how many changes of keys a second the store makes in PostgreSQL: concurrent operators each mint a
// key and revoke it, again and again, in a database that is on disk and syncs every commit.
//
// The baseline takes turns with it: the same number of connections to the same server, each inserting one row per
// transaction. So the ratio compares a change, with its log row and its audit event, with the cheapest durable commit.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/phantomrouter/phantom-authz/bench"
	"github.com/phantomrouter/phantom-authz/bench/result"
	"github.com/phantomrouter/phantom-authz/internal/pgtest"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/postgres"
)

// required is the least median of changes a second of most operators.
const required = 1000

var (
	rounds   = flag.Int("rounds", 7, "rounds of each variant")
	duration = flag.Duration("duration", 2*time.Second, "time of one round")
	most     = flag.Int("operators", 16, "the largest number of concurrent operators")
)

const account = "bench"

func main() {
	bench.Main(func(ctx context.Context) (err error) {
		server, err := pgtest.Start(ctx, "fsync=on", "max_wal_size=4GB", "shared_buffers=256MB")
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, server.Remove()) }()
		database, err := server.Database(ctx)
		if err != nil {
			return err
		}
		url := server.URL(database)
		store, err := postgres.Open(ctx, url, postgres.Options{})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, store.Close()) }()
		if _, err := store.CreateAccount(ctx, "operator:bench", account, "Bench"); err != nil {
			return err
		}
		if err := server.Exec(ctx, database, "CREATE TABLE baseline (at bigint)"); err != nil {
			return err
		}
		return measureAll(ctx, store, url)
	})
}

func measureAll(ctx context.Context, store keystore.Store, url string) error {
	t := result.Table{
		Name:    "change",
		Caption: fmt.Sprintf("Medians of %d rounds of %v (least to greatest).", *rounds, *duration),
		Columns: []string{"concurrent operators", "changes/s", "baseline: commits/s of one row", "ratio in the same turn"},
	}
	var latest result.Cell
	for n := 1; n <= *most; n *= 4 {
		commits, err := connect(ctx, url, n)
		if err != nil {
			return err
		}
		changes := &bench.Variant[float64]{Name: "changes", Run: func() (float64, error) {
			return perSecond(ctx, n, 2, func(ctx context.Context, _ int) error { return change(ctx, store) })
		}}
		baseline := &bench.Variant[float64]{Name: "baseline", Run: func() (float64, error) {
			return perSecond(ctx, n, 1, func(ctx context.Context, i int) error {
				_, err := commits[i].Exec(ctx, "INSERT INTO baseline VALUES (1)")
				return err
			})
		}}
		if err := bench.InTurn(*rounds, changes, baseline); err != nil {
			return err
		}
		for _, c := range commits {
			if err := c.Close(ctx); err != nil {
				return err
			}
		}
		itself := func(v float64) float64 { return v }
		latest = result.Median(changes.Values(itself))
		t.Rows = append(t.Rows, result.Row{Name: strconv.Itoa(n), Cells: []result.Cell{
			latest, result.Median(baseline.Values(itself)), result.Median(changes.Ratios(baseline, itself)),
		}})
	}
	bench.Report(t)
	bench.ReportGoals(result.Goal{Name: fmt.Sprintf("changes/s on PostgreSQL, %d operators", *most), AtLeast: required, Measured: latest})
	return nil
}

// connect makes n connections.
func connect(ctx context.Context, url string, n int) ([]*pgx.Conn, error) {
	all := make([]*pgx.Conn, n)
	for i := range all {
		var err error
		if all[i], err = pgx.Connect(ctx, url); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// change mints a key and revokes it: two changes.
func change(ctx context.Context, store keystore.Store) error {
	id := "key_" + credential.RandomBase62(16)
	key := keystore.NewKey{ID: id, Account: account, Digest: credential.NewSecret(id).Digest(), Label: "bench"}
	if _, err := store.CreateKey(ctx, "operator:bench", key); err != nil {
		return err
	}
	_, err := store.RevokeKey(ctx, "operator:bench", id, "")
	return err
}

// perSecond repeats do in n goroutines for one round, and returns how often it was done a second, each counted as weight.
func perSecond(ctx context.Context, n, weight int, do func(ctx context.Context, i int) error) (float64, error) {
	began := time.Now()
	counts := make([]int, n)
	var work errgroup.Group
	for i := range n {
		work.Go(func() error {
			for time.Since(began) < *duration {
				if err := do(ctx, i); err != nil {
					return err
				}
				counts[i] += weight
			}
			return nil
		})
	}
	err := work.Wait()
	total := 0
	for _, count := range counts {
		total += count
	}
	return float64(total) / time.Since(began).Seconds(), err
}
