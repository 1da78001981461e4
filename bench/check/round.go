package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/phantomrouter/phantom-authz/bench"
)

// Each stream sends its next check as soon as the previous one is answered.
const (
	connections = 2
	streams     = 16 // of each connection
)

// round is the result of one round.
type round struct {
	latencies bench.Times
	cpu       time.Duration // of the server, for one check
}

// runRound sends checks to a server for the duration.
func runRound(ctx context.Context, pid int, socket string, messages []*authv3.CheckRequest) (r round, err error) {
	var clients [connections]authv3.AuthorizationClient
	for i := range clients {
		conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return r, err
		}
		defer func() { _ = conn.Close() }()
		clients[i] = authv3.NewAuthorizationClient(conn)
	}
	var mu sync.Mutex
	r.cpu, err = bench.CPU(pid, func() error {
		var group errgroup.Group
		end := time.Now().Add(*duration)
		for i := range connections * streams {
			group.Go(func() error {
				latencies, err := sendChecks(ctx, clients[i/streams], messages, i, end)
				mu.Lock()
				defer mu.Unlock()
				r.latencies = append(r.latencies, latencies...)
				return err
			})
		}
		return group.Wait()
	})
	if err != nil {
		return r, err
	}
	r.latencies = bench.Sort(r.latencies)
	r.cpu /= time.Duration(len(r.latencies))
	return r, nil
}

// sendChecks sends the checks of one stream, beginning with the first one, until the end.
func sendChecks(ctx context.Context, client authv3.AuthorizationClient, messages []*authv3.CheckRequest, first int, end time.Time) (latencies []time.Duration, err error) {
	for i := first; ; i++ {
		began := time.Now()
		if began.After(end) {
			return latencies, nil
		}
		answer, err := client.Check(ctx, messages[i%len(messages)], grpc.WaitForReady(true))
		if err != nil {
			return nil, err
		}
		if answer.GetStatus().GetCode() != 0 {
			return nil, fmt.Errorf("check is answered with code %d", answer.GetStatus().GetCode())
		}
		latencies = append(latencies, time.Since(began))
	}
}
