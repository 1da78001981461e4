package main

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phantomrouter/phantom-authz/bench"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// flood is a testbed with a sidecar that has cached the hot keys.
type flood struct {
	*testbed.Testbed
	probe  probe
	authzd *testbed.Process
}

// round is the result of one round.
type round struct {
	latencies bench.Times // of hot keys
	perSecond float64     // checks of the load
	busy      float64     // the sidecar's share of its processor
}

// lead is the time that a load runs before and after the measurement. Smaller measures the burst of the rate limit, too; larger
// makes the rounds longer.
const lead = 300 * time.Millisecond

// runRound measures the hot keys beside a load.
func (f *flood) runRound(ctx context.Context, load testbed.Load) (r round, err error) {
	var group errgroup.Group
	if load.Checks > 0 {
		load.Duration = f.probe.Duration + 2*lead
		group.Go(func() error {
			answers, err := f.GenerateLoad(ctx, sidecar, load)
			for _, n := range answers {
				r.perSecond += float64(n) / load.Duration.Seconds()
			}
			return err
		})
	}
	<-time.After(lead)
	began := time.Now()
	cpu, err := bench.CPU(f.authzd.Pid(), func() (err error) {
		r.latencies, err = f.probe.run(ctx)
		return err
	})
	if err != nil {
		return r, err
	}
	r.busy = cpu.Seconds() / time.Since(began).Seconds()
	r.latencies = bench.Sort(r.latencies)
	return r, group.Wait()
}
