// Command envoy measures what authorization costs behind a real Envoy: without a filter (the baseline), with Envoy's own
// api_key_auth, with the module, and with ext_authz and authzd. A grpc-go server with a constant answer in place of authzd shows
// what the call alone costs.
//
// Each variant has an Envoy with one worker and its own configuration: the same connection manager, one route that Envoy
// answers itself, and the filter. The variants take turns. A generator sends requests of keys that are cached, at full speed and
// then at an even rate. CPU and memory are those of whole processes, so those of Envoy include the network and the module.
//
// Envoy has its own processor. The other one runs the generator, authzd and the key API. The benchmark needs Linux with taskset,
// and an otherwise idle machine: other programs increase every p99. With perf it also shows the parts of the CPU.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/phantomrouter/phantom-authz/bench"
	"github.com/phantomrouter/phantom-authz/envoy"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// The processors of Envoy and of all other programs.
const (
	envoyProcessor = "0"
	otherProcessor = "1"
)

var (
	version     = flag.String("version", envoy.Newest, "the version of Envoy")
	rounds      = flag.Int("rounds", 7, "rounds of each variant")
	duration    = flag.Duration("duration", 1500*time.Millisecond, "duration of a round, at full speed and at the rate")
	rate        = flag.Int("rate", 4000, "requests a second of the even rate")
	connections = flag.Int("connections", 16, "connections to Envoy")
	keyCount    = flag.Int("keys", 1000, "keys that the requests present in turn")
	generator   = flag.Bool("generate", false, "run the generator on standard input")
)

func main() {
	bench.Main(func(ctx context.Context) error {
		if *generator {
			return runGenerator(os.Stdin, os.Stdout)
		}
		return testbed.Run(ctx, func(tb *testbed.Testbed) error { return measure(ctx, tb) }, "cmd/keyd", "cmd/authzd", "bench/check")
	})
}

func measure(ctx context.Context, tb *testbed.Testbed) error {
	p := &proxies{Testbed: tb}
	if err := p.start(ctx); err != nil {
		return err
	}
	all := make([]*bench.Variant[round], len(p.all))
	for i, proxy := range p.all {
		all[i] = proxy.Variant
	}
	if err := bench.InTurn(*rounds, all...); err != nil {
		return err
	}
	p.report()
	parts, err := p.partsTable(ctx)
	if err != nil { // it is missing, or may not be used
		fmt.Fprintln(os.Stderr, "no table of the parts of a request:", err)
		return nil
	}
	bench.Report(parts)
	return nil
}
