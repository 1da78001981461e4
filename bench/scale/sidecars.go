package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/phantomrouter/phantom-authz/bench"
	"github.com/phantomrouter/phantom-authz/bench/result"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// pollWait is the wait_ms of a long poll: a third of the default lease.
const pollWait = 5 * time.Second

// pollers are sidecars without a cache: real clients, each with its own connection and long poll.
type pollers struct {
	cancel  context.CancelFunc
	polling sync.WaitGroup
	mu      sync.Mutex
	errs    []error
}

func (p *pollers) start(ctx context.Context, tb *testbed.Testbed, n int) error {
	ctx, p.cancel = context.WithCancel(ctx)
	for i := range n {
		client, err := bench.SidecarClient(tb, time.Minute)
		if err != nil {
			return err
		}
		p.polling.Go(func() {
			defer client.Close()
			if err := poll(ctx, client, fmt.Sprintf("sidecar-%d-of-%d", i, n)); err != nil {
				p.mu.Lock()
				defer p.mu.Unlock()
				p.errs = append(p.errs, err)
			}
		})
	}
	return nil
}

// poll polls until ctx ends, and then deregisters the sidecar.
func poll(ctx context.Context, client *sidecarapi.Client, name string) error {
	// MaxStaleMS is that of the default configuration.
	request := sidecarapi.ChangesRequest{Sidecar: name, Poll: 1, After: -1, MaxStaleMS: (15 * time.Minute).Milliseconds()}
	_, err := client.Changes(ctx, request)
	var head *sidecarapi.Gone
	switch {
	case err == nil:
		return errors.New("the request for the head was answered with a lease, want 410")
	case !errors.As(err, &head):
		return err
	}
	request.Epoch, request.After = head.Epoch, head.Revision
	for {
		request.Poll++
		changes, err := client.Changes(ctx, request)
		if ctx.Err() != nil {
			request.Poll++
			request.Leave = true
			_, err = client.Changes(context.WithoutCancel(ctx), request)
			return err
		}
		if err != nil {
			return err
		}
		request.Epoch, request.After, request.WaitMS = changes.Epoch, changes.Revision, pollWait.Milliseconds()
	}
}

func (p *pollers) stop() error {
	p.cancel()
	p.polling.Wait()
	return errors.Join(p.errs...)
}

// measureSidecars measures one keyd on each engine with many sidecars.
func measureSidecars(ctx context.Context, s *stores) error {
	t := result.Table{
		Name:    "scale-sidecars",
		Caption: fmt.Sprintf("%d revocations with each number of sidecars; each sidecar has a long poll of %v.", *rounds, pollWait),
		Columns: []string{
			"engine", "sidecars", "keyd's memory, MiB", "for one sidecar, KiB", "keyd's CPU for a poll that renews, µs",
			"revoke to last acknowledgement: median, ms", "p99, ms", "maximum, ms", "keyd's CPU for one sidecar and change, µs",
		},
	}
	err := s.each(ctx, func(engine string, tb *testbed.Testbed, keyd *testbed.Process) error {
		account, err := tb.CreateAccount(ctx)
		if err != nil {
			return err
		}
		var baseline int64 // memory without sidecars
		for _, n := range []int{0, *sidecarCount / 10, *sidecarCount} {
			row, err := measureWith(ctx, tb, keyd, account, n)
			if err != nil {
				return err
			}
			if n == 0 {
				baseline = row.memory
			}
			t.Rows = append(t.Rows, result.Row{Name: engine, Cells: row.cells(n, baseline)})
		}
		return nil
	})
	if err != nil {
		return err
	}
	bench.Report(t)
	return nil
}

type sidecarRow struct {
	memory          int64         // bytes
	renewal, change time.Duration // CPU for a poll, and for a change at one sidecar
	took            bench.Times
}

func (r sidecarRow) cells(n int, baseline int64) []result.Cell {
	var each, renewal, change result.Cell
	if n > 0 {
		each = result.Value(float64(r.memory-baseline) / float64(n) / (1 << 10))
		renewal, change = result.Value(bench.Micros(r.renewal)), result.Value(bench.Micros(r.change))
	}
	cells := []result.Cell{result.Value(float64(n)), result.Value(float64(r.memory) / (1 << 20)), each, renewal}
	return append(append(cells, r.took.Cells()...), change)
}

// measureWith measures keyd with n sidecars.
func measureWith(ctx context.Context, tb *testbed.Testbed, keyd *testbed.Process, account string, n int) (row sidecarRow, err error) {
	var sidecars pollers
	defer func() { err = errors.Join(err, sidecars.stop()) }()
	if err := sidecars.start(ctx, tb, n); err != nil {
		return row, err
	}
	if err := bench.AwaitSidecars(ctx, tb, n); err != nil {
		return row, err
	}
	const idle = 4 * pollWait
	row.renewal, err = bench.CPU(keyd.Pid(), func() error {
		select {
		case <-time.After(idle):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if err != nil {
		return row, err
	}
	row.renewal /= time.Duration(max(1, n*int(idle/pollWait)))
	if row.memory, err = testbed.Resident(keyd.Pid()); err != nil {
		return row, err
	}
	var took []time.Duration
	row.change, err = bench.CPU(keyd.Pid(), func() error {
		for range *rounds {
			one, err := timeRevocation(ctx, tb, account)
			if err != nil {
				return err
			}
			took = append(took, one)
		}
		return nil
	})
	if err != nil {
		return row, err
	}
	row.change /= time.Duration(2 * *rounds * max(1, n)) // a round has two changes: a mint and a revocation
	row.took = bench.Sort(took)
	return row, nil
}

// timeRevocation mints a key, waits until all sidecars have acknowledged that, and times its revocation.
func timeRevocation(ctx context.Context, tb *testbed.Testbed, account string) (time.Duration, error) {
	key, err := bench.AwaitEffective(ctx, tb, operatorapi.MintKey(account, operatorapi.NewKey{Label: "revoked"}))
	if err != nil {
		return 0, err
	}
	began := time.Now()
	_, err = bench.AwaitEffective(ctx, tb, operatorapi.RevokeKey(key.Key.ID))
	return time.Since(began), err
}
