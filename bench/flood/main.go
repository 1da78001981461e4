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
// On a virtual machine of two cores with nothing else to do, one run of 5 rounds, median p99 of
// hot keys (least to greatest of a round): alone 4.5 ms (2.5 to 8.1); beside 1,000 unknown
// keys a second 3.3 ms (1.6 to 4.7), beside 3,000 4.6 ms (3.0 to 5.8), which is 1.02
// times what they are alone (0.61 to 1.45) and 1.18 times what they are beside as many
// known ones (0.73 to 1.42).
//
// At full speed, 8,600 a second, it is 19 ms (12 to 20), and 35 ms beside known ones (ratio
// 0.53, 0.34 to 0.81): 4.2 times what it is alone. Authzd is at 0.6 of its core then. That a
// hot one waits for what the crowd, which gets its own core by fits and starts, sends in
// one go is likely, and was not measured apart.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"

	"github.com/phantomrouter/phantom-authz/faults/running"
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
	return running.In(ctx, func(site *running.Site) error { return measure(ctx, site, o) }, "cmd/keyd", "cmd/authzd", "faults/crowd")
}

func measure(ctx context.Context, site *running.Site, o options) error {
	b := &bench{Site: site, probe: probe{Site: site.Dir, Sidecar: "authzd", PerSecond: o.rate, Lasts: o.lasts}}
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
	*running.Site
	probe  probe
	authzd *running.Process
}

func (b *bench) start(ctx context.Context) (err error) {
	const hotKeys = 20
	quiet := running.Config{"log": running.Config{"level": "info"}}
	// Beside the prober all others are idle ones to the scheduler: none makes it wait.
	others := []string{"taskset", "-c", clients, "chrt", "--idle", "0"}
	b.Through = others
	if _, err := b.StartKeyd(ctx, quiet); err != nil {
		return err
	}
	b.Through = []string{"taskset", "-c", sidecar}
	if b.authzd, err = b.StartAuthzd(ctx, b.probe.Sidecar, quiet); err != nil {
		return err
	}
	b.Through = others
	account, err := b.Account(ctx)
	if err != nil {
		return err
	}
	checks, err := b.Checks(b.probe.Sidecar)
	if err != nil {
		return err
	}
	defer checks.Close()
	for range hotKeys {
		key, err := b.Mint(ctx, account)
		if err != nil {
			return err
		}
		b.probe.Keys = append(b.probe.Keys, key.Secret.Reveal())
		if err := running.Until(ctx, func() error { return allowed(ctx, checks, key.Secret) }); err != nil {
			return err
		}
	}
	return nil
}

func allowed(ctx context.Context, checks *running.Checks, key credential.Secret, options ...grpc.CallOption) error {
	answer, err := checks.Check(ctx, key, options...)
	if err == nil && answer.Status != 200 {
		err = fmt.Errorf("a good key: %v", answer)
	}
	return err
}
