package main

import (
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phantomrouter/phantom-authz/bench"
)

// shape is a load. Each stream sends its next check as soon as the previous one is answered.
type shape struct {
	connections, streams int
	mostCPU              float64 // the goal for authzd's CPU to the baseline's
}

func (s shape) String() string {
	return fmt.Sprintf("%d x %d", s.connections, s.streams)
}

// round is the result of one round.
type round struct {
	latencies bench.Times
	cpu       time.Duration // of the server, for one check
}

// runRound sends checks to a server for the duration.
func runRound(pid int, socket string, messages [][]byte, s shape) (r round, err error) {
	clients := make([]*client, s.connections)
	for i := range clients {
		if clients[i], err = connect(socket, messages[i*len(messages)/len(clients):]); err != nil {
			return r, err
		}
	}
	r.cpu, err = bench.CPU(pid, func() error {
		var group errgroup.Group
		end := time.Now().Add(*duration)
		for _, c := range clients {
			group.Go(func() error { return c.run(s.streams, end) })
		}
		return group.Wait()
	})
	if err != nil {
		return r, err
	}
	for _, c := range clients {
		r.latencies = append(r.latencies, c.latencies...)
	}
	r.latencies = bench.Sort(r.latencies)
	r.cpu /= time.Duration(len(r.latencies))
	return r, nil
}
