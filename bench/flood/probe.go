package main

import (
	"bytes"
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

	"github.com/phantomrouter/phantom-authz/bench"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// probe is checks of hot keys at an even rate. A check that waits delays none of the next. A separate process of this program
// sends them.
type probe struct {
	Socket    string // of the sidecar
	Keys      []string
	PerSecond int
	Duration  time.Duration
}

// run sends the checks and returns their latencies, each from the time at which the check was due.
func (p probe) run(ctx context.Context) (latencies bench.Times, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "taskset", "-c", otherProcessor, self, "-probe")
	cmd.Stdin, cmd.Stderr = bytes.NewReader(text), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	return latencies, json.Unmarshal(out, &latencies)
}

// runProbe runs the probe that it reads, and writes the latencies.
func runProbe(in io.Reader, out io.Writer) error {
	var p probe
	if err := json.NewDecoder(in).Decode(&p); err != nil {
		return err
	}
	checks, err := testbed.NewCheckClient(p.Socket)
	if err != nil {
		return err
	}
	defer checks.Close()
	latencies, err := p.send(checks)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(latencies)
}

// send sends the checks at even intervals with a random offset each, so that they do not coincide with periodic events.
func (p probe) send(checks *testbed.CheckClient) (bench.Times, error) {
	runtime.GOMAXPROCS(4)  // one for the pauses, which are system calls, and some for the answers
	debug.SetGCPercent(-1) // a collection would dominate p99; the garbage of a run is some tens of MiB
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	keys := make([]credential.Secret, len(p.Keys))
	for i, key := range p.Keys {
		keys[i] = credential.NewSecret(key)
	}
	check := func(key credential.Secret) error {
		return checks.CheckAllowed(context.Background(), key, grpc.WaitForReady(true))
	}
	interval := time.Second / time.Duration(p.PerSecond)
	n := int(p.Duration / interval)
	latencies, errs := make(bench.Times, n), make([]error, n)
	if err := check(keys[0]); err != nil { // connect
		return nil, err
	}
	var pending sync.WaitGroup
	began := time.Now()
	for i := range n {
		due := began.Add(time.Duration(i)*interval + rand.N(interval))
		bench.Pause(time.Until(due))
		pending.Go(func() {
			errs[i] = check(keys[i%len(keys)])
			latencies[i] = time.Since(due)
		})
	}
	pending.Wait()
	return latencies, errors.Join(errs...)
}
