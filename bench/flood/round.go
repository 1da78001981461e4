package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// load is what the sidecar is asked beside the hot keys.
type load struct {
	name   string
	order  testbed.Load
	known  *load // as many keys that are known; nil if these are
	rounds []round
}

// round is what one round has shown.
type round struct {
	latencies         // of hot keys, sorted
	perSecond float64 // checks of the load
	busy      float64 // the sidecar's share of its processor
}

// loads begins with the hot keys alone.
func loads() []*load {
	all := []*load{{name: "hot keys alone"}}
	for _, rate := range []int{1000, 3000, 6000, 0} {
		speed := fmt.Sprintf("%d a second", rate)
		if rate == 0 {
			speed = "at full speed"
		}
		order := testbed.Load{PerSecond: rate, Checks: math.MaxInt}
		known := &load{name: "beside known ones, " + speed, order: order}
		known.order.Key = "hot" // which one is not known yet
		all = append(all, known, &load{name: "beside unknown ones, " + speed, order: order, known: known})
	}
	return all
}

// lead is how long a load is under way before and after it is measured: so long is the
// limiter's burst over, too.
const lead = 300 * time.Millisecond

// round measures hot keys beside a load.
func (b *bench) round(ctx context.Context, order testbed.Load) (r round, err error) {
	over := make(chan error, 1)
	var answers map[string]int
	if order.Checks > 0 {
		order.Duration = b.probe.Lasts + 2*lead
		if order.Key != "" {
			order.Key = b.probe.Keys[0]
		}
		go func() {
			var err error
			answers, err = b.GenerateLoad(ctx, "authzd", order)
			over <- err
		}()
	} else {
		over <- nil
	}
	<-time.After(lead)
	before, err := testbed.CPU(b.authzd.Pid())
	if err != nil {
		return r, err
	}
	began := time.Now()
	wait, err := b.probe.start(ctx)
	if err != nil {
		return r, err
	}
	if r.latencies, err = wait(); err != nil {
		return r, err
	}
	took := time.Since(began)
	after, err := testbed.CPU(b.authzd.Pid())
	if err != nil {
		return r, err
	}
	if err := <-over; err != nil {
		return r, err
	}
	slices.Sort(r.latencies)
	r.busy = (after - before).Seconds() / took.Seconds()
	for _, n := range answers {
		r.perSecond += float64(n) / order.Duration.Seconds()
	}
	return r, nil
}
