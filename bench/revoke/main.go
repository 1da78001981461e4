// Command revoke measures the time from an operator's revocation of a key until keyd answers that it is effective: no sidecar
// can allow the key any more.
//
// Keyd is a separate process with a store on disk. The sidecars are real caches with real clients, each with its long poll, in this
// process, and so their processor time is a part of the result. The baseline takes turns with it: a session's mint, which is one
// request and one durable commit, and no change for the sidecars.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/bench"
	"github.com/phantomrouter/phantom-authz/bench/result"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keycache"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

// required is the limit of the median of each run.
const required = 50 * time.Millisecond

var (
	runs     = flag.Int("runs", 5, "runs with each number of sidecars")
	rounds   = flag.Int("rounds", 50, "revocations in a run")
	sidecars = flag.Int("sidecars", 500, "the largest number of sidecars")
)

func main() {
	bench.Main(func(ctx context.Context) error {
		return testbed.Run(ctx, func(tb *testbed.Testbed) (err error) {
			keyd, err := tb.StartKeyd(ctx, bench.Quiet())
			if err != nil {
				return err
			}
			r := &revocations{Testbed: tb, keyd: keyd}
			if r.account, err = tb.CreateAccount(ctx); err != nil {
				return err
			}
			ctx, cancel := context.WithCancel(ctx)
			defer func() { cancel(); r.running.Wait() }()
			return r.measureAll(ctx)
		}, "cmd/keyd")
	})
}

type revocations struct {
	*testbed.Testbed
	keyd      *testbed.Process
	account   string
	connected int // sidecars
	running   sync.WaitGroup
}

// run is the result of one run.
type run struct {
	times          bench.Times
	keyd, sidecars time.Duration // processor time for each revocation; that of sidecars includes the operator's
}

func (r *revocations) measureAll(ctx context.Context) error {
	t := result.Table{
		Name:    "revoke",
		Caption: fmt.Sprintf("From the request to `effective: true` in the answer: medians of %d runs with %d revocations each (least to greatest).", *runs, *rounds),
		Columns: []string{"sidecars", "median, ms", "p99, ms", "keyd's CPU, ms", "sidecars' CPU, ms", "baseline's median, ms", "median to the baseline's"},
	}
	var slowest float64
	for _, n := range []int{0, 1, 10, 100, 250, 500} {
		if n > *sidecars {
			break
		}
		if err := r.connect(ctx, n); err != nil {
			return err
		}
		baseline := &bench.Variant[run]{Name: "baseline", Run: func() (run, error) {
			return r.measure(func() (func() error, error) {
				return func() error { _, err := r.MintSession(ctx, r.account); return err }, nil
			})
		}}
		revoke := &bench.Variant[run]{Name: "revoke", Run: func() (run, error) {
			return r.measure(func() (func() error, error) { return r.mint(ctx) })
		}}
		if err := bench.InTurn(*runs, baseline, revoke); err != nil {
			return err
		}
		t.Rows = append(t.Rows, row(n, baseline, revoke))
		slowest = slices.Max(revoke.Values(median))
	}
	bench.Report(t)
	bench.ReportGoals(result.Goal{
		Name: fmt.Sprintf("revoke to effective, %d sidecars: slowest median of %d runs, ms", r.connected, *runs), AtMost: bench.Millis(required), Measured: result.Value(slowest),
	})
	return nil
}

// mint mints a key, and returns its revocation once the mint is effective. Then all sidecars wait for a change.
func (r *revocations) mint(ctx context.Context) (revoke func() error, err error) {
	minted, err := bench.AwaitEffective(ctx, r.Testbed, operatorapi.MintKey(r.account, operatorapi.NewKey{Label: "revoke"}))
	if err != nil {
		return nil, err
	}
	return func() error {
		_, err := bench.AwaitEffective(ctx, r.Testbed, operatorapi.RevokeKey(minted.Key.ID))
		return err
	}, nil
}

// measure measures what prepare returns, again and again.
func (r *revocations) measure(prepare func() (func() error, error)) (run, error) {
	var measured run
	for range *rounds {
		do, err := prepare()
		if err != nil {
			return measured, err
		}
		began := time.Now()
		var own time.Duration
		keyd, err := bench.CPU(r.keyd.Pid(), func() (err error) {
			own, err = bench.CPU(os.Getpid(), do)
			return err
		})
		if err != nil {
			return measured, err
		}
		measured.times = append(measured.times, time.Since(began))
		measured.keyd += keyd / time.Duration(*rounds)
		measured.sidecars += own / time.Duration(*rounds)
	}
	measured.times = bench.Sort(measured.times)
	return measured, nil
}

func median(r run) float64 { return bench.Millis(r.times.Median()) }

func row(n int, baseline, revoke *bench.Variant[run]) result.Row {
	return result.Row{Name: strconv.Itoa(n), Cells: []result.Cell{
		result.Median(revoke.Values(median)),
		result.Median(revoke.Values(func(r run) float64 { return bench.Millis(r.times.Percentile(99)) })),
		result.Median(revoke.Values(func(r run) float64 { return bench.Millis(r.keyd) })),
		result.Median(revoke.Values(func(r run) float64 { return bench.Millis(r.sidecars) })),
		result.Median(baseline.Values(median)),
		result.Median(revoke.Ratios(baseline, median)),
	}}
}

// connect starts sidecars until there are n, and waits until all have a lease.
func (r *revocations) connect(ctx context.Context, n int) error {
	for ; r.connected < n; r.connected++ {
		client, err := bench.SidecarClient(r.Testbed, 400*time.Millisecond)
		if err != nil {
			return err
		}
		cache := keycache.New(client, keycache.Options{
			Name:  func() string { return "sidecar-" + credential.RandomBase62(8) },
			Known: 1000, Unknown: 1000,
			Times:     keycache.Times{MaxAge: time.Hour, ConfirmAfter: 10 * time.Second, MaxStale: 15 * time.Minute},
			Admission: keycache.Admission{PerSecond: 200, Burst: 400},
			Log:       zap.NewNop(),
			Metrics:   prometheus.NewRegistry(),
		})
		r.running.Go(func() {
			_ = cache.Run(ctx) // it returns no error
			cache.Close()
		})
	}
	return bench.AwaitSidecars(ctx, r.Testbed, n)
}
