// Command flood measures what a flood of unknown keys does to the latency of keys that authzd has cached.
//
// Checks of hot keys are sent at an even rate, each at its time even if earlier ones are not answered. Its latency counts from that
// time. A load beside them checks one known key or random unknown keys: at a given rate, or at full speed, which is 1,000
// checks in flight. The baselines are the hot keys alone, and the hot keys beside the same load of known keys. The loads take
// turns.
//
// Authzd has its own processor. The other one runs the probe and, with the scheduler's idle priority, the load and the key API. The
// benchmark needs Linux with taskset and chrt, and an otherwise idle machine: other programs increase every p99.
//
// # Results
//
// One run of 5 rounds on an idle virtual machine with two cores: p99 of hot keys over all rounds (least to greatest of a round),
// and the ratio to hot keys alone.
//
//	alone                                     1.02 ms (0.74 to 1.49)
//	beside  1,000 unknown keys a second       1.37 ms (1.12 to 1.67)    1.33
//	beside  3,000                             2.17 ms (1.06 to 3.38)    2.12 (known keys: 1.25)
//	beside  6,000                             4.29 ms (1.94 to 5.68)    4.19 (known keys: 2.70)
//	at full speed, 10,000 a second           14.1 ms  (4.95 to 20.9)   13.8
//	at full speed, 51,000 known ones a second 45.1 ms (35.2 to 51.4)   44.1
//
// The medians are 0.40 ms alone and 0.41 to 0.49 ms beside unknown keys. So p99 grows by less than a half up to five times the
// rate limit. It grows more beside a flood that uses a third of the sidecar's only core or more: then the hot keys wait in the
// same queue. In traces of authzd at full speed nearly all waits of more than 4 ms are during the mark phase of a garbage
// collection (15 to 30 ms, once a second, a quarter of the core), while checks use the rest of the core.
//
// The probe runs no garbage collection during a measurement. Its collections were most of its p99 alone (3 to 5 ms) and hid the
// effect of a flood. A load of gRPC clients, instead of one that writes the frames itself, sent 300 to 500 checks at once after
// pauses of 10 ms.
package main

import (
	"context"
	"flag"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/phantomrouter/phantom-authz/bench"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// The processors of the sidecar and of all other programs.
const (
	sidecarProcessor = "0"
	otherProcessor   = "1"
)

const sidecar = "authzd"

var (
	rounds   = flag.Int("rounds", 7, "rounds of each load")
	duration = flag.Duration("duration", 2*time.Second, "duration of the measurement in a round")
	rate     = flag.Int("rate", 1500, "checks of hot keys a second")
	asProbe  = flag.Bool("probe", false, "run the probe on standard input")
)

func main() {
	bench.Main(func(ctx context.Context) error {
		if *asProbe {
			return runProbe(os.Stdin, os.Stdout)
		}
		return testbed.Run(ctx, func(tb *testbed.Testbed) error { return measure(ctx, tb) }, "cmd/keyd", "cmd/authzd", "internal/loadgen")
	})
}

// variant is a load beside the hot keys.
type variant struct {
	*bench.Variant[round]
	known *variant // the same load of known keys; nil if these are
}

func measure(ctx context.Context, tb *testbed.Testbed) error {
	// Other programs are idle for the scheduler, so that the probe never waits for them.
	others := []string{"taskset", "-c", otherProcessor, "chrt", "--idle", "0"}
	tb.Wrapper = others
	if _, err := tb.StartKeyd(ctx, bench.Quiet()); err != nil {
		return err
	}
	tb.Wrapper = []string{"taskset", "-c", sidecarProcessor}
	authzd, err := tb.StartAuthzd(ctx, sidecar, bench.Quiet())
	if err != nil {
		return err
	}
	tb.Wrapper = others
	const hotKeys = 20
	keys, err := bench.MintCached(ctx, tb, sidecar, hotKeys)
	if err != nil {
		return err
	}
	b := &flood{Testbed: tb, authzd: authzd, probe: probe{Socket: tb.Socket(sidecar), PerSecond: *rate, Duration: *duration}}
	for _, key := range keys {
		b.probe.Keys = append(b.probe.Keys, key.Reveal())
	}
	variants := b.variants(ctx)
	all := make([]*bench.Variant[round], len(variants))
	for i, v := range variants {
		all[i] = v.Variant
	}
	if err := bench.InTurn(*rounds, all...); err != nil {
		return err
	}
	report(variants)
	return nil
}

// variants returns the loads. The first one is the hot keys alone.
func (f *flood) variants(ctx context.Context) []*variant {
	beside := func(name string, load testbed.Load) *variant {
		return &variant{Variant: &bench.Variant[round]{Name: name, Run: func() (round, error) { return f.runRound(ctx, load) }}}
	}
	all := []*variant{beside("hot keys alone", testbed.Load{})}
	for _, rate := range []int{1000, 3000, 6000, 0} {
		speed := fmt.Sprintf("%d a second", rate)
		if rate == 0 {
			speed = "at full speed"
		}
		known := beside("beside known keys, "+speed, testbed.Load{PerSecond: rate, Checks: math.MaxInt, Key: f.probe.Keys[0]})
		unknown := beside("beside unknown keys, "+speed, testbed.Load{PerSecond: rate, Checks: math.MaxInt})
		unknown.known = known
		all = append(all, known, unknown)
	}
	return all
}
