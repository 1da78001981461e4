package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/phantomrouter/phantom-authz/bench"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// sidecar is an authzd with a full cache.
type sidecar struct {
	*testbed.Testbed
	name   string
	authzd *testbed.Process
	keys   []string
}

// start starts an authzd with a variable of its environment, and has it cache n keys.
func start(ctx context.Context, tb *testbed.Testbed, name string, n int, env string) (*sidecar, error) {
	config := bench.Quiet()
	// A shard may get a few more than its part of the keys, and then evicts some.
	config["cache"] = testbed.Config{"credentials": max(100_000, n+n/10)}
	config["admission"] = testbed.Config{"unknown_per_second": 1_000_000, "burst": 1_000_000}
	config["key_api"] = testbed.Config{
		"url": "unix://" + tb.Socket("sidecars"), "token_file": "key-api.token", "timeout": "10s",
	}
	if tb.Wrapper = nil; env != "" {
		tb.Wrapper = []string{"env", env}
	}
	authzd, err := tb.StartAuthzd(ctx, name, config)
	tb.Wrapper = nil
	if err != nil {
		return nil, err
	}
	s := &sidecar{Testbed: tb, name: name, authzd: authzd}
	for range n {
		s.keys = append(s.keys, credential.Mint(credential.Key).Reveal())
	}
	return s, s.fill(ctx)
}

// fill checks every key until all are cached.
func (s *sidecar) fill(ctx context.Context) error {
	load := testbed.Load{KeysFile: s.File(s.name + ".keys"), Checks: len(s.keys)}
	if err := writeLines(load.KeysFile, s.keys); err != nil {
		return err
	}
	const passes = 10 // a check may take too long on a busy machine
	for pass := 1; ; pass++ {
		answers, err := s.GenerateLoad(ctx, s.name, load)
		if err != nil {
			return err
		}
		cached, err := s.authzd.Metric(ctx, `phantom_authz_cache_entries{pool="known"}`)
		switch {
		case err != nil || int(cached) == len(s.keys):
			return err
		case pass == passes:
			return fmt.Errorf("%s has cached %.0f of %d keys: %v", s.name, cached, len(s.keys), answers)
		}
	}
}

// round is the result of one round.
type round struct {
	keys        int
	latencies   bench.Times
	cpu         time.Duration
	resident    int64   // at the end
	collections float64 // a second
}

// at returns the latency that so many of a thousand checks do not exceed.
func (r round) at(permille int) time.Duration { return r.latencies[len(r.latencies)*permille/1000] }

func (s *sidecar) variant(ctx context.Context) *bench.Variant[round] {
	return &bench.Variant[round]{Name: fmt.Sprintf("%d credentials", len(s.keys)), Run: func() (round, error) { return s.runRound(ctx) }}
}

// runRound sends checks of random keys at the rate.
func (s *sidecar) runRound(ctx context.Context) (r round, err error) {
	load := testbed.Load{
		KeysFile: s.File(s.name + ".round"), Checks: int(float64(*rate) * duration.Seconds()), PerSecond: *rate, Timed: true,
	}
	keys := make([]string, load.Checks)
	for i := range keys {
		keys[i] = s.keys[rand.IntN(len(s.keys))]
	}
	if err := writeLines(load.KeysFile, keys); err != nil {
		return r, err
	}
	const cycles = "go_gc_duration_seconds_count"
	before, err := s.authzd.Metric(ctx, cycles)
	if err != nil {
		return r, err
	}
	var answers testbed.Answers
	began := time.Now()
	if r.cpu, err = bench.CPU(s.authzd.Pid(), func() (err error) {
		answers, err = s.TimeLoad(ctx, s.name, load)
		return err
	}); err != nil {
		return r, err
	}
	const leastAllowed = 0.99 // a machine that is too busy for the rate shows no latencies of the sidecar
	if allowed := answers.ByReason["ok"]; float64(allowed) < leastAllowed*float64(load.Checks) {
		return r, fmt.Errorf("%d of %d checks are allowed: %v", allowed, load.Checks, answers.ByReason)
	}
	after, err := s.authzd.Metric(ctx, cycles)
	if err != nil {
		return r, err
	}
	r.keys, r.latencies = len(s.keys), bench.Sort(answers.Latencies)
	r.collections = (after - before) / time.Since(began).Seconds()
	r.resident, err = testbed.Resident(s.authzd.Pid())
	return r, err
}
