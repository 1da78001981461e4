package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os/exec"
	"sync"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

// The load. Each key of the stack is presented in turn, and sometimes one that keyd does not know.
const (
	perSecond    = 200
	unknownEvery = 20
	revokeEvery  = 2 * time.Second
	// inFlight bounds the requests that wait: Envoy answers after 0.5 s while authzd is stopped.
	inFlight = 400
)

// run sends the load and interrupts the programs, until the length has passed since the start.
func (s *stack) run(ctx context.Context, start time.Time) error {
	ctx, cancel := context.WithDeadline(ctx, start.Add(length))
	defer cancel()
	failed := make([]error, 2)
	var running sync.WaitGroup
	running.Go(func() { s.sendRequests(ctx) })
	running.Go(func() { failed[0] = s.revoke(ctx) })
	running.Go(func() { failed[1] = s.interrupt(ctx, start) })
	running.Wait()
	return errors.Join(failed...)
}

func (s *stack) sendRequests(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	free := make(chan struct{}, inFlight)
	ticks := time.NewTicker(time.Second / perSecond)
	defer ticks.Stop()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: inFlight}, Timeout: 2 * time.Second}
	defer client.CloseIdleConnections()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
		key := s.keys[i%len(s.keys)]
		if i%unknownEvery == 0 {
			key = credential.Mint(credential.Key).Reveal()
		}
		select {
		case free <- struct{}{}:
		default:
			continue
		}
		running.Go(func() {
			s.send(client, key)
			<-free
		})
	}
}

// send sends one request. Prometheus counts the answers.
func (s *stack) send(client *http.Client, key string) {
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, s.url+"/api/v1/me", nil)
	if err != nil {
		return
	}
	if key != "" {
		r.Header.Set("authorization", "Bearer "+key)
	}
	if response, err := client.Do(r); err == nil {
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
	}
}

// revoke mints and revokes a key again and again. While keyd is stopped, its requests fail.
func (s *stack) revoke(ctx context.Context) error {
	ticks := time.NewTicker(revokeEvery)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticks.C:
		}
		if err := s.revokeOne(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
}

func (s *stack) revokeOne(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, revokeEvery)
	defer cancel()
	key, err := s.MintKey(ctx, s.account)
	if err == nil {
		_, err = s.Operators.Do(ctx, operatorapi.RevokeKey(key.ID))
	}
	return err
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func command(ctx context.Context, program string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, program, args...)
}
