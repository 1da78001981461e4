// Command check measures what a check costs that authzd answers from its cache. The baseline is a grpc-go server with the
// generated types that returns a constant OK: the least that a sidecar on grpc-go can do.
//
// Both are separate processes behind a Unix socket. The same client sends them the same messages in turn. The CPU time is that
// of the server's process.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/phantomrouter/phantom-authz/bench"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

var (
	rounds   = flag.Int("rounds", 7, "rounds of each server")
	duration = flag.Duration("duration", 2*time.Second, "duration of a round")
	serve    = flag.String("serve", "", "run the baseline server on this socket")
)

func main() {
	bench.Main(func(ctx context.Context) error {
		if *serve != "" {
			return serveBaseline(*serve)
		}
		return testbed.Run(ctx, func(tb *testbed.Testbed) error { return measure(ctx, tb) }, "cmd/keyd", "cmd/authzd")
	})
}

func measure(ctx context.Context, tb *testbed.Testbed) error {
	if _, err := tb.StartKeyd(ctx, bench.Quiet()); err != nil {
		return err
	}
	authzd, err := tb.StartAuthzd(ctx, "authzd", bench.Quiet())
	if err != nil {
		return err
	}
	keys, err := bench.MintCached(ctx, tb, "authzd", 1000)
	if err != nil {
		return err
	}
	stock, err := startBaseline(tb)
	if err != nil {
		return err
	}
	defer stock.Kill()
	messages := make([]*authv3.CheckRequest, len(keys))
	for i, key := range keys {
		messages[i] = testbed.CheckRequest(key)
	}
	variant := func(name string, p *testbed.Process, socket string) *bench.Variant[round] {
		return &bench.Variant[round]{Name: name, Run: func() (round, error) { return runRound(ctx, p.Pid(), tb.Socket(socket), messages) }}
	}
	baseline := variant("stock grpc-go, constant OK (baseline)", stock, "stock")
	measured := variant("authzd, from its cache", authzd, "authzd")
	if err := bench.InTurn(*rounds, baseline, measured); err != nil {
		return err
	}
	report(baseline, measured)
	return nil
}

// report prints a table of medians over the rounds, and their spread.
func report(baseline, measured *bench.Variant[round]) {
	columns := []func(round) float64{
		func(r round) float64 { return float64(len(r.latencies)) / duration.Seconds() },
		func(r round) float64 { return micros(r.cpu) },
		func(r round) float64 { return micros(r.latencies.Median()) },
		func(r round) float64 { return micros(r.latencies.Percentile(99)) },
	}
	fmt.Printf("%d connections with %d streams each; medians of %d rounds (least to greatest).\n\n", connections, streams, *rounds)
	fmt.Println("| | checks/s | server's CPU for a check, µs | latency p50, µs | latency p99, µs |\n|---|---|---|---|---|")
	printRow := func(name string, values func(column func(round) float64) []float64, format string) {
		fmt.Printf("| %s |", name)
		for _, column := range columns {
			fmt.Printf(" %s |", bench.MedianSpread(values(column), format))
		}
		fmt.Println()
	}
	printRow(baseline.Name, baseline.Values, "%.1f")
	printRow(measured.Name, measured.Values, "%.1f")
	printRow("ratio in the same turn", func(of func(round) float64) []float64 { return measured.Ratios(baseline, of) }, "%.2f")
}

func micros(d time.Duration) float64 { return 1000 * bench.Millis(d) }

// startBaseline starts this program as the baseline server.
func startBaseline(tb *testbed.Testbed) (*testbed.Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return testbed.Start(tb.Dir, "stock", exec.Command(self, "-serve", tb.Socket("stock")))
}
