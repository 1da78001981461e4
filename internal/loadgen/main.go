// Command loadgen sends many concurrent checks to one sidecar, for the flood tests and benchmarks. It is a separate
// process, so that a measurement beside it shares no Go scheduler with it. It reads a testbed.Load from standard input and
// writes the testbed.Answers to standard output, both as JSON.
//
// It writes HTTP/2 frames itself and sends the next check as each answer arrives. A gRPC client costs more CPU than the
// sidecar does, and batches what many goroutines send: on a shared processor it sends hundreds of checks in one write and
// then none for 10 ms, which would dominate the measurement.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

const (
	connections = 2
	// streams is the number of concurrent checks on each connection of a load without a rate. Smaller leaves the sidecar
	// idle between answers; larger queues checks in the sidecar until they exceed their timeout.
	streams = 500
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "loadgen:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	g := &generator{start: time.Now()}
	if err := json.NewDecoder(in).Decode(&g.load); err != nil {
		return fmt.Errorf("read load: %w", err)
	}
	if err := g.readKeys(); err != nil {
		return err
	}
	if g.load.Timed {
		debug.SetGCPercent(-1) // a collection would be measured; a run makes some hundreds of MiB of garbage
	}
	for range connections {
		conn, err := connect(g.load.Socket, g.next)
		if err != nil {
			return err
		}
		conn.timed = g.load.Timed
		g.conns = append(g.conns, conn)
	}
	answers, err := g.send()
	return errors.Join(err, json.NewEncoder(out).Encode(answers))
}

// generator sends a load.
type generator struct {
	load  testbed.Load
	keys  [][]byte // of the load's file
	start time.Time
	sent  atomic.Int64
	conns []*connection
}

func (g *generator) readKeys() error {
	if g.load.KeysFile == "" {
		return nil
	}
	text, err := os.ReadFile(g.load.KeysFile)
	g.keys = bytes.Fields(text)
	g.start = time.Now()
	return err
}

// send sends the load, waits for its answers and returns them.
func (g *generator) send() (testbed.Answers, error) {
	var reading errgroup.Group
	for _, conn := range g.conns {
		reading.Go(conn.read)
	}
	var failed error
	if g.load.PerSecond > 0 {
		failed = g.sendEvenly()
	} else {
		for _, conn := range g.conns {
			failed = errors.Join(failed, conn.allow(streams, true))
		}
	}
	failed = errors.Join(failed, reading.Wait())
	answers := testbed.Answers{ByReason: map[string]int{}}
	for _, conn := range g.conns {
		for reason, n := range conn.answers {
			answers.ByReason[reason] += n
		}
		answers.Latencies = append(answers.Latencies, conn.latencies...)
	}
	return answers, failed
}

func (g *generator) sendEvenly() error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for sent := 0; sent < g.load.Checks && !g.expired(); <-tick.C {
		due := int(time.Since(g.start).Seconds() * float64(g.load.PerSecond))
		// A delay is made up at twice the rate: a burst would not be an even rate.
		due = min(due, g.load.Checks, sent+g.load.PerSecond/500+1)
		for i, conn := range g.conns {
			if err := conn.allow((due-sent+i)/len(g.conns), false); err != nil {
				return err
			}
		}
		sent = due
	}
	var errs []error
	for _, conn := range g.conns {
		errs = append(errs, conn.finish())
	}
	return errors.Join(errs...)
}

// expired reports whether the load's duration has passed.
func (g *generator) expired() bool {
	return g.load.Duration > 0 && time.Since(g.start) >= g.load.Duration
}

// next returns the message of the next check, or nil after the last one. It presents a key of the load, or a random key, or
// now and then a canary.
func (g *generator) next() []byte {
	const canaryInterval = 100
	n := int(g.sent.Add(1)) - 1
	if n >= g.load.Checks || g.expired() {
		return nil
	}
	var key credential.Secret
	switch i := n / canaryInterval; {
	case len(g.keys) > 0:
		key = credential.NewSecret(string(g.keys[n%len(g.keys)]))
	case g.load.Key != "":
		key = credential.NewSecret(g.load.Key)
	case n%canaryInterval == 0 && i < len(g.load.Canaries):
		key = credential.NewSecret(g.load.Canaries[i])
	default:
		key = credential.Mint(credential.Key)
	}
	message, err := proto.Marshal(testbed.CheckRequest(key))
	if err != nil {
		panic(err) // only text that is not UTF-8 fails
	}
	return message
}
