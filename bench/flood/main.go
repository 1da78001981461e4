// Command flood measures what a flood of unknown keys does to the latency of keys that
// authzd knows.
//
// Hot keys are asked for at an even rate, each check at its moment whatever became of
// those before; its latency counts from that moment. Beside them a crowd asks for one
// known key or for random unknown ones: at a given rate, or at full speed, which is
// 1,000 checks under way all the time. The baselines are the hot keys alone, and the
// hot keys beside as many known ones, for every load costs something. Loads take
// turns, round by round.
//
// Authzd has a processor of its own. On the other one are the prober and, idle ones to
// its scheduler, the crowd and the key API. It needs Linux with taskset and chrt, and
// a machine that has nothing else to do: what else runs is in every p99.
//
// # What was measured
//
// On a virtual machine of two cores with nothing else to do, one run of 5 rounds: p99 of hot
// keys over all rounds (least to greatest of a round), and the ratio to hot keys alone.
//
//	alone                                     1.02 ms (0.74 to 1.49)
//	beside  1,000 unknown keys a second       1.37 ms (1.12 to 1.67)    1.33
//	beside  3,000                             2.17 ms (1.06 to 3.38)    2.12 (known ones: 1.25)
//	beside  6,000                             4.29 ms (1.94 to 5.68)    4.19 (known ones: 2.70)
//	at full speed, 10,000 a second           14.1 ms  (4.95 to 20.9)   13.8
//	at full speed, 51,000 known ones a second 45.1 ms (35.2 to 51.4)   44.1
//
// The medians are 0.40 ms alone and 0.41 to 0.49 ms beside unknown keys. So growth by less than a half
// holds for five times what the limiter lets through, and not for a flood that takes a third
// of the sidecar's only core or more: there the hot keys wait in the same queue. In traces of
// authzd at full speed nearly all waits of more than 4 ms are within the marking of a garbage
// collection (15 to 30 ms, once in a second, a quarter of the core), while checks come
// that take the rest of it.
//
// The prober itself collects no garbage while it measures. When it did, that was most of its p99
// alone (3 to 5 ms), and hid what a flood adds. A crowd of gRPC clients, in place of one
// that writes its frames itself, sent 300 to 500 checks at a time after 10 ms without any.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// Which processor is whose.
const (
	sidecar = "0"
	clients = "1" // and the key API's
)

// options of a measurement.
type options struct {
	rounds int
	lasts  time.Duration
	rate   int
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 7, "rounds of each load")
	flag.DurationVar(&o.lasts, "lasts", 2*time.Second, "how long a round is measured")
	flag.IntVar(&o.rate, "rate", 1500, "checks of hot keys a second")
	asProbe := flag.Bool("probe", false, "carry out the order on standard input")
	flag.Parse()
	var err error
	if *asProbe {
		err = beProbe(os.Stdin, os.Stdout)
	} else {
		err = run(context.Background(), o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "flood:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	return testbed.Run(ctx, func(site *testbed.Testbed) error { return measure(ctx, site, o) }, "cmd/keyd", "cmd/authzd", "internal/loadgen")
}

func measure(ctx context.Context, site *testbed.Testbed, o options) error {
	b := &bench{Testbed: site, probe: probe{Socket: site.Socket("authzd"), PerSecond: o.rate, Lasts: o.lasts}}
	if err := b.start(ctx); err != nil {
		return err
	}
	all := loads()
	for i := range o.rounds + 1 {
		for _, l := range all {
			r, err := b.round(ctx, l.order)
			if err != nil {
				return fmt.Errorf("%s: %w", l.name, err)
			}
			if i > 0 { // the first warms up
				l.rounds = append(l.rounds, r)
			}
		}
	}
	report(o, all)
	return nil
}

// bench is a site with a sidecar that knows some hot keys.
type bench struct {
	*testbed.Testbed
	probe  probe
	authzd *testbed.Process
}

func (b *bench) start(ctx context.Context) (err error) {
	const hotKeys = 20
	quiet := testbed.Config{"log": testbed.Config{"level": "info"}}
	// Beside the prober all others are idle ones to the scheduler: none makes it wait.
	others := []string{"taskset", "-c", clients, "chrt", "--idle", "0"}
	b.Wrapper = others
	if _, err := b.StartKeyd(ctx, quiet); err != nil {
		return err
	}
	b.Wrapper = []string{"taskset", "-c", sidecar}
	if b.authzd, err = b.StartAuthzd(ctx, "authzd", quiet); err != nil {
		return err
	}
	b.Wrapper = others
	account, err := b.CreateAccount(ctx)
	if err != nil {
		return err
	}
	checks, err := b.CheckClient("authzd")
	if err != nil {
		return err
	}
	defer checks.Close()
	for range hotKeys {
		key, err := b.MintKey(ctx, account)
		if err != nil {
			return err
		}
		b.probe.Keys = append(b.probe.Keys, key.Secret.Reveal())
		if err := testbed.Until(ctx, func() error { return allowed(ctx, checks, key.Secret) }); err != nil {
			return err
		}
	}
	return nil
}

func allowed(ctx context.Context, checks *testbed.CheckClient, key credential.Secret, options ...grpc.CallOption) error {
	answer, err := checks.Check(ctx, key, options...)
	if err == nil && answer.Status != 200 {
		err = fmt.Errorf("a good key: %v", answer)
	}
	return err
}
