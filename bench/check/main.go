// Command check measures what a check costs that authzd answers from its cache. The baseline is a grpc-go server with the
// generated types that returns a constant OK. It has grpc-go's and Go's defaults; authzd runs as it is shipped, with stream
// workers, its own GOGC and a profile for the compiler. So the ratio compares programs as one gets them, not the work of a check:
// a baseline with stream workers and GOGC=400 costs less than with the defaults, too.
//
// Both are separate processes behind a Unix socket. The same client sends them the same messages in turn. The CPU time is that
// of the server's process. Other programs on the machine change the ratio, because they increase the cost of waking a goroutine.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/phantomrouter/phantom-authz/bench"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

var (
	rounds   = flag.Int("rounds", 7, "rounds of each server")
	duration = flag.Duration("duration", 2*time.Second, "duration of a round")
	profile  = flag.String("profile", "", "write a CPU profile of authzd under the loads to this file, and measure nothing")
	serve    = flag.String("serve", "", "run the baseline server on this socket")
)

// shapes are the loads: connections, and checks in flight on each of them. Envoy opens a connection for each of its workers.
var shapes = []shape{{connections: 2, streams: 16}, {connections: 1, streams: 1}}

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
	messages := make([][]byte, len(keys))
	for i, key := range keys {
		if messages[i], err = message(key); err != nil {
			return err
		}
	}
	if *profile != "" {
		return writeProfile(ctx, *profile, authzd, tb.Socket("authzd"), messages)
	}
	stock, err := startBaseline(ctx, tb)
	if err != nil {
		return err
	}
	// All loads of both servers take turns.
	var all []*bench.Variant[round]
	for _, s := range shapes {
		variant := func(name string, p *testbed.Process, socket string) *bench.Variant[round] {
			return &bench.Variant[round]{Name: name, Run: func() (round, error) { return runRound(p.Pid(), tb.Socket(socket), messages, s) }}
		}
		all = append(all, variant("stock grpc-go, constant OK (baseline)", stock, "stock"), variant("authzd, from its cache", authzd, "authzd"))
	}
	if err := bench.InTurn(*rounds, all...); err != nil {
		return err
	}
	fmt.Printf("Medians of %d rounds (least to greatest). The baseline is grpc-go with its defaults. Authzd runs as it is shipped, with its\n"+
		"own GOGC and a profile for the compiler, which the baseline lacks.\n", *rounds)
	for i, s := range shapes {
		report(s, all[2*i], all[2*i+1])
	}
	return nil
}

// report prints a table of medians over the rounds, and their spread.
func report(s shape, baseline, measured *bench.Variant[round]) {
	columns := []func(round) float64{
		func(r round) float64 { return float64(len(r.latencies)) / duration.Seconds() },
		func(r round) float64 { return micros(r.cpu) },
		func(r round) float64 { return micros(r.latencies.Median()) },
		func(r round) float64 { return micros(r.latencies.Percentile(99)) },
	}
	fmt.Printf("\n| %s | checks/s | server's CPU for a check, µs | latency p50, µs | latency p99, µs |\n|---|---|---|---|---|\n", s)
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

// startBaseline starts this program as the baseline server, and waits until it listens.
func startBaseline(ctx context.Context, tb *testbed.Testbed) (*testbed.Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p, err := tb.Start("stock", exec.Command(self, "-serve", tb.Socket("stock")))
	if err != nil {
		return nil, err
	}
	return p, tb.Await(ctx, "the baseline server", func() error {
		_, err := os.Stat(tb.Socket("stock"))
		return err
	})
}
