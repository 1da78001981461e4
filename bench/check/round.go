package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/phantomrouter/phantom-authz/bench/sample"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// The load: each stream asks again as soon as it is answered.
const (
	connections = 2
	streams     = 16 // on each
)

type server struct {
	name, socket string
	pid          int
	rounds       []round
}

// round is what one round has shown.
type round struct {
	perSecond float64
	cpu       time.Duration // of the server, for one check
	p50, p99  time.Duration
}

// round asks the server for so long.
func (s *server) round(ctx context.Context, site *testbed.Testbed, keys []credential.Secret, lasts time.Duration) (round, error) {
	messages := make([]*authv3.CheckRequest, len(keys))
	for i, key := range keys {
		messages[i] = testbed.CheckRequest(key)
	}
	before, err := testbed.CPU(s.pid)
	if err != nil {
		return round{}, err
	}
	var (
		asking sync.WaitGroup
		mu     sync.Mutex
		took   []time.Duration
		failed []error
	)
	until := time.Now().Add(lasts)
	for c := range connections {
		conn, err := grpc.NewClient("unix://"+site.Socket(s.socket), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return round{}, err
		}
		defer func() { _ = conn.Close() }()
		client := authv3.NewAuthorizationClient(conn)
		for i := range streams {
			asking.Go(func() {
				mine, err := ask(ctx, client, messages, c*streams+i, until)
				mu.Lock()
				defer mu.Unlock()
				took, failed = append(took, mine...), append(failed, err)
			})
		}
	}
	asking.Wait()
	after, err := testbed.CPU(s.pid)
	if err := errors.Join(append(failed, err)...); err != nil {
		return round{}, err
	}
	slices.Sort(took)
	n := len(took)
	return round{
		perSecond: float64(n) / lasts.Seconds(),
		cpu:       (after - before) / time.Duration(n),
		p50:       took[n/2], p99: took[n*99/100],
	}, nil
}

// ask is one stream.
func ask(ctx context.Context, client authv3.AuthorizationClient, messages []*authv3.CheckRequest, first int, until time.Time) (took []time.Duration, err error) {
	for i := first; ; i++ {
		began := time.Now()
		if began.After(until) {
			return took, nil
		}
		answer, err := client.Check(ctx, messages[i%len(messages)], grpc.WaitForReady(true))
		if err != nil {
			return nil, err
		}
		if answer.GetStatus().GetCode() != 0 {
			return nil, fmt.Errorf("answered with %d", answer.GetStatus().GetCode())
		}
		took = append(took, time.Since(began))
	}
}

// report writes the table: medians over the rounds, and their spread.
func report(baseline, measured *server) {
	fmt.Printf("%d connections with %d streams each; medians of %d rounds (least to greatest).\n\n",
		connections, streams, len(baseline.rounds))
	fmt.Println("| | checks/s | server's CPU for a check, µs | latency p50, µs | latency p99, µs |\n|---|---|---|---|---|")
	columns := []func(round) float64{
		func(r round) float64 { return r.perSecond },
		func(r round) float64 { return micros(r.cpu) },
		func(r round) float64 { return micros(r.p50) },
		func(r round) float64 { return micros(r.p99) },
	}
	for _, s := range []*server{baseline, measured} {
		fmt.Printf("| %s |", s.name)
		for _, column := range columns {
			fmt.Printf(" %s |", spread(s.rounds, column))
		}
		fmt.Println()
	}
	fmt.Print("| ratio, round by round |")
	for _, column := range columns {
		ratios := make([]float64, len(baseline.rounds))
		for i := range ratios {
			ratios[i] = column(measured.rounds[i]) / column(baseline.rounds[i])
		}
		fmt.Printf(" %s |", sample.Spread(ratios, "%.2f"))
	}
	fmt.Println()
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

func spread(rounds []round, of func(round) float64) string {
	values := make([]float64, len(rounds))
	for i, r := range rounds {
		values[i] = of(r)
	}
	return sample.Spread(values, "%.1f")
}
