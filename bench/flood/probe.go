package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// probe is an order to ask for hot keys at an even rate, whatever the answers do: a
// check that has to wait holds up none after it. This program carries it out as a
// process of its own.
type probe struct {
	Socket    string // of the sidecar
	Keys      []string
	PerSecond int
	Lasts     time.Duration
}

// latencies are what checks took, each counted from the moment that it was due and
// not from when it was sent.
type latencies []time.Duration

// start begins the probe; what it returns waits for its end.
func (p probe) start(ctx context.Context) (wait func() (latencies, error), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "taskset", "-c", clients, self, "-probe")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	sent := json.NewEncoder(in).Encode(p)
	return func() (latencies, error) {
		var l latencies
		read := json.NewDecoder(out).Decode(&l)
		return l, errors.Join(sent, read, cmd.Wait())
	}, nil
}

// beProbe carries out the order.
func beProbe(in io.Reader, out io.Writer) error {
	var p probe
	if err := json.NewDecoder(in).Decode(&p); err != nil {
		return err
	}
	checks, err := testbed.NewCheckClient(p.Socket)
	if err != nil {
		return err
	}
	defer checks.Close()
	l, err := p.ask(checks)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(l)
}

// ask sends the checks, each at its moment: evenly spread, and each shifted by chance,
// so that they meet no other rhythm.
func (p probe) ask(checks *testbed.CheckClient) (latencies, error) {
	// One for the pauses, which are system calls, and some for the answers.
	runtime.GOMAXPROCS(4)
	debug.SetGCPercent(-1) // in what this takes it leaves some tens of MiB; a collection would be its p99
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	keys := make([]credential.Secret, len(p.Keys))
	for i, key := range p.Keys {
		keys[i] = credential.NewSecret(key)
	}
	apart := time.Second / time.Duration(p.PerSecond)
	n := int(p.Lasts / apart)
	took, failed := make(latencies, n), make([]error, n)
	if err := good(checks, keys[0]); err != nil { // it connects
		return nil, err
	}
	var asking sync.WaitGroup
	began := time.Now()
	for i := range n {
		due := began.Add(time.Duration(i)*apart + rand.N(apart))
		pause(time.Until(due))
		asking.Go(func() {
			failed[i] = good(checks, keys[i%len(keys)])
			took[i] = time.Since(due)
		})
	}
	asking.Wait()
	return took, errors.Join(failed...)
}

func good(checks *testbed.CheckClient, key credential.Secret) error {
	return allowed(context.Background(), checks, key, grpc.WaitForReady(true))
}
