package testbed

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Stack is processes in the order of their start: each may need those before it.
type Stack struct {
	Dir string // folder of their logs

	mu        sync.Mutex
	processes []*Process
}

// Start starts a program as the function Start does, and adds it to the stack.
func (s *Stack) Start(name string, cmd *exec.Cmd) (*Process, error) {
	p, err := Start(s.Dir, name, cmd)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.processes = append(s.processes, p)
	return p, nil
}

// Processes returns all processes in the order of their start, including exited ones.
func (s *Stack) Processes() []*Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.processes)
}

// Await calls try until it succeeds. It fails if any process exits, if ctx ends, or after Patience; then the error names
// what was awaited.
func (s *Stack) Await(ctx context.Context, what string, try func() error) error {
	return await(ctx, what, try, s.Processes()...)
}

// Stop ends all processes, the last one first. It kills slow ones, so that all exit within the grace period.
func (s *Stack) Stop(grace time.Duration) {
	deadline := time.Now().Add(grace)
	for _, p := range slices.Backward(s.Processes()) {
		if !p.HasExited() {
			p.Shutdown(min(time.Until(deadline), grace/2))
		}
	}
}

// Patience is the timeout of waits for events that must happen. Smaller fails on a busy machine; larger delays the
// report of a failure.
const Patience = time.Minute

// Until calls try until it succeeds. It fails if ctx ends, or after Patience.
func Until(ctx context.Context, try func() error) error { return await(ctx, "success", try) }

// await is Until that also fails if one of the watched processes exits.
func await(ctx context.Context, what string, try func() error, watched ...*Process) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		for _, p := range watched {
			if p.HasExited() {
				return p.exitError()
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("timed out waiting for %s: %w", what, err)
		}
	}
}

// Get returns the body of a page of any status.
func Get(ctx context.Context, url string) ([]byte, error) {
	_, text, err := get(ctx, url, Patience)
	return text, err
}

// Probe requests a page. Any status but 200 is an error.
func Probe(ctx context.Context, url string) error {
	status, _, err := get(ctx, url, 2*time.Second) // the caller retries
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("GET %s: status %d", url, status)
	}
	return err
}

func get(ctx context.Context, url string, timeout time.Duration) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err = io.ReadAll(response.Body)
	return response.StatusCode, body, err
}

// Ports that FreeAddresses gives out. They are below those that the kernel gives to connections, so that no connection takes one
// before its program listens.
const firstPort, lastPort = 10_000, 32_767

// nextPort counts from a random port, so that no port is given out twice while the first program still starts: at random among
// hundreds of Envoys, two got the same one in every other run. Another process counts from elsewhere.
var nextPort = func() *atomic.Int64 {
	var n atomic.Int64
	n.Store(rand.Int64N(lastPort - firstPort + 1))
	return &n
}()

// FreeAddresses returns n loopback addresses, HOST:PORT, that are free now and were not returned before.
func FreeAddresses(n int) ([]string, error) {
	const tries = 1000
	var addresses []string
	var err error
	for range tries {
		if len(addresses) == n {
			return addresses, nil
		}
		var listener net.Listener
		port := firstPort + nextPort.Add(1)%(lastPort-firstPort+1)
		if listener, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
			continue // in use
		}
		if err = listener.Close(); err != nil {
			return nil, err
		}
		addresses = append(addresses, listener.Addr().String())
	}
	return nil, fmt.Errorf("no free port after %d tries: %w", tries, err)
}
