package main

import (
	"context"
	"time"

	"github.com/phantomrouter/phantom-authz/bench"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// round is the result of one round.
type round struct {
	full, even measurement
	envoyBytes int64 // resident after the round
	authzBytes int64 // of the sidecar; 0: none
}

// measurement is the result of one load.
type measurement struct {
	answers
	envoy, sidecar time.Duration // CPU in total
}

// measure sends requests at full speed and then at the even rate.
func (v *proxy) measure(ctx context.Context) (r round, err error) {
	if r.full, err = v.send(ctx, v.load); err != nil {
		return r, err
	}
	even := v.load
	even.PerSecond = *rate
	if r.even, err = v.send(ctx, even); err != nil {
		return r, err
	}
	if r.envoyBytes, err = testbed.Resident(v.envoy.Pid()); err != nil || v.sidecar == nil {
		return r, err
	}
	r.authzBytes, err = testbed.Resident(v.sidecar.Pid())
	return r, err
}

// send sends one load and measures the CPU that it uses.
func (v *proxy) send(ctx context.Context, l load) (m measurement, err error) {
	generate := func() (err error) {
		m.answers, err = l.generate(ctx)
		return err
	}
	m.envoy, err = bench.CPU(v.envoy.Pid(), func() (err error) {
		if v.sidecar == nil {
			return generate()
		}
		m.sidecar, err = bench.CPU(v.sidecar.Pid(), generate)
		return err
	})
	return m, err
}

// perRequest returns a part of the CPU of a measurement in microseconds for each request.
func (m measurement) perRequest(cpu time.Duration) float64 {
	return float64(cpu.Microseconds()) / float64(m.Requests)
}

// perSecond returns the requests a second.
func (m measurement) perSecond() float64 { return float64(m.Requests) / m.Elapsed.Seconds() }
