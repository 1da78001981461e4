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
	"github.com/phantomrouter/phantom-authz/bench/result"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

var (
	rounds   = flag.Int("rounds", 7, "rounds of each server")
	duration = flag.Duration("duration", 2*time.Second, "duration of a round")
	profile  = flag.String("profile", "", "write a CPU profile of authzd under the loads to this file, and measure nothing")
	serve    = flag.String("serve", "", "run the baseline server on this socket")
)

// shapes are the loads: connections, and checks in flight on each of them. Envoy opens a connection for each of its workers.
var shapes = []shape{{connections: 2, streams: 16, mostCPU: 0.40}, {connections: 1, streams: 1, mostCPU: 0.75}}

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
	for i, s := range shapes {
		report(s, all[2*i], all[2*i+1])
	}
	return nil
}

// report prints a table of medians over the rounds, and their spread.
func report(s shape, baseline, measured *bench.Variant[round]) {
	cpu := func(r round) float64 { return bench.Micros(r.cpu) }
	p99 := func(r round) float64 { return bench.Micros(r.latencies.Percentile(99)) }
	columns := []func(round) float64{
		func(r round) float64 { return float64(len(r.latencies)) / duration.Seconds() },
		cpu,
		func(r round) float64 { return bench.Micros(r.latencies.Median()) },
		p99,
	}
	row := func(name string, values func(column func(round) float64) []float64) result.Row {
		r := result.Row{Name: name}
		for _, column := range columns {
			r.Cells = append(r.Cells, result.Median(values(column)))
		}
		return r
	}
	ratios := func(column func(round) float64) []float64 { return measured.Ratios(baseline, column) }
	bench.Report(result.Table{
		Name: fmt.Sprintf("check-%d-%d", s.connections, s.streams),
		Caption: fmt.Sprintf("%s. Medians of %d rounds (least to greatest). The baseline is grpc-go with its defaults. Authzd runs as it is shipped, with its "+
			"own GOGC and a profile for the compiler, which the baseline lacks.", s, *rounds),
		Columns: []string{"server", "checks/s", "server's CPU for a check, µs", "latency p50, µs", "latency p99, µs"},
		Rows:    []result.Row{row(baseline.Name, baseline.Values), row(measured.Name, measured.Values), row("ratio in the same turn", ratios)},
	})
	bench.ReportGoals(
		result.Goal{Name: fmt.Sprintf("authzd: CPU for a check to stock grpc-go, %s", s), AtMost: s.mostCPU, Measured: result.Median(ratios(cpu))},
		result.Goal{Name: fmt.Sprintf("authzd: p99 to stock grpc-go, %s", s), AtMost: 0.5, Measured: result.Median(ratios(p99))},
	)
}

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
