package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/phantomrouter/phantom-authz/bench"
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
	fmt.Printf("\n%d revocations with each number of sidecars; each sidecar has a long poll of %v.\n\n", *rounds, pollWait)
	fmt.Println("| engine | sidecars | keyd's memory | of it for one sidecar | CPU for a poll that renews | revoke to last acknowledgement: median | p99 | maximum | CPU for one sidecar and change |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|")
	return s.each(ctx, func(engine string, tb *testbed.Testbed, keyd *testbed.Process) error {
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
			fmt.Println("| " + engine + row.cells(n, baseline))
		}
		return nil
	})
}

type sidecarRow struct {
	memory          int64         // bytes
	renewal, change time.Duration // CPU for a poll, and for a change at one sidecar
	took            bench.Times
}

func (r sidecarRow) cells(n int, baseline int64) string {
	each, renewal, change := "–", "–", "–"
	if n > 0 {
		each = fmt.Sprintf("%.1f KiB", float64(r.memory-baseline)/float64(n)/1024)
		renewal, change = fmt.Sprintf("%d µs", r.renewal.Microseconds()), fmt.Sprintf("%d µs", r.change.Microseconds())
	}
	return fmt.Sprintf(" | %d | %.0f MiB | %s | %s | %s | %s |", n, float64(r.memory)/(1<<20), each, renewal, r.took, change)
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
