package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"github.com/phantomrouter/phantom-authz/bench/sample"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// wait is how long a sidecar has keyd hold its poll: a third of the default lease.
const wait = 5 * time.Second

// crowd is many sidecars, each with its own connection and its long poll open. They
// are the real client without a cache behind it.
type crowd struct {
	end     context.CancelFunc
	polling sync.WaitGroup
	mu      sync.Mutex
	failed  []error
}

func (c *crowd) start(ctx context.Context, site *testbed.Testbed, n int) error {
	token, err := site.SidecarToken()
	if err != nil {
		return err
	}
	ctx, c.end = context.WithCancel(ctx)
	for i := range n {
		client := sidecarapi.New(sidecarapi.Options{
			URL:     &url.URL{Scheme: "unix", Path: site.Socket("sidecars")},
			Token:   func() credential.Secret { return token },
			Timeout: time.Minute,
		})
		c.polling.Go(func() {
			defer client.Close()
			if err := poll(ctx, client, fmt.Sprintf("sidecar-%d", i)); ctx.Err() == nil {
				c.mu.Lock()
				defer c.mu.Unlock()
				c.failed = append(c.failed, err)
			}
		})
	}
	return nil
}

func poll(ctx context.Context, client *sidecarapi.Client, name string) error {
	// MaxStale is that of the default configuration.
	ask := sidecarapi.ChangesRequest{Sidecar: name, Poll: 1, After: -1, MaxStaleMS: (15 * time.Minute).Milliseconds()}
	_, err := client.Changes(ctx, ask)
	var head *sidecarapi.Gone
	switch {
	case err == nil:
		return errors.New("a poll of the head was answered with a lease, not with 410")
	case !errors.As(err, &head):
		return err
	}
	ask.Epoch, ask.After = head.Epoch, head.Revision
	for {
		ask.Poll++
		told, err := client.Changes(ctx, ask)
		if err != nil {
			return err
		}
		ask.Epoch, ask.After, ask.WaitMS = told.Epoch, told.Revision, wait.Milliseconds()
	}
}

func (c *crowd) stop() error {
	c.end()
	c.polling.Wait()
	return errors.Join(c.failed...)
}

// fleets measures one keyd on each engine with so many sidecars.
func (b *bench) fleets(ctx context.Context, engines []string) error {
	fmt.Printf("\n%d revocations with so many sidecars, each with a long poll of %v open.\n\n", b.rounds, wait)
	fmt.Println("| engine | sidecars | keyd's memory | of it for one sidecar | CPU for one poll that renews | revoke to last acknowledgement: median | p99 | longest | CPU for one sidecar and change |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|")
	for _, engine := range engines {
		err := b.in(ctx, engine, func(site *testbed.Testbed, keyd *testbed.Process) error {
			return b.fleet(ctx, engine, site, keyd)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", engine, err)
		}
	}
	return nil
}

func (b *bench) fleet(ctx context.Context, engine string, site *testbed.Testbed, keyd *testbed.Process) error {
	account, err := site.CreateAccount(ctx)
	if err != nil {
		return err
	}
	var alone int64 // bytes
	for _, n := range []int{0, b.sidecars / 10, b.sidecars} {
		row, err := b.withSidecars(ctx, site, keyd, account, n)
		if err != nil {
			return err
		}
		if n == 0 {
			alone = row.memory
		}
		fmt.Println("| " + engine + row.cells(n, alone))
	}
	return nil
}

type fleetRow struct {
	memory        int64         // bytes
	renewal, each time.Duration // CPU for a poll, and for a change at a sidecar
	took          sample.Times
}

func (r fleetRow) cells(n int, alone int64) string {
	of, renewal, each := "–", "–", "–"
	if n > 0 {
		of = fmt.Sprintf("%.1f KiB", float64(r.memory-alone)/float64(n)/1024)
		renewal, each = fmt.Sprintf("%d µs", r.renewal.Microseconds()), fmt.Sprintf("%d µs", r.each.Microseconds())
	}
	return fmt.Sprintf(" | %d | %.0f MiB | %s | %s | %s | %s |", n, float64(r.memory)/(1<<20), of, renewal, r.took, each)
}

func (b *bench) withSidecars(ctx context.Context, site *testbed.Testbed, keyd *testbed.Process, account string, n int) (row fleetRow, err error) {
	var sidecars crowd
	if err := sidecars.start(ctx, site, n); err != nil {
		return row, err
	}
	defer func() { err = errors.Join(err, sidecars.stop()) }()
	err = testbed.Until(ctx, func() error {
		list, err := site.Operators.Sidecars(ctx)
		if err == nil && len(list.Items) < n {
			err = fmt.Errorf("%d of %d sidecars are connected", len(list.Items), n)
		}
		return err
	})
	if err != nil {
		return row, err
	}
	const rest = 4 * wait
	row.renewal, err = spent(keyd, func() error { return pause(ctx, rest) })
	if err != nil {
		return row, err
	}
	row.renewal /= time.Duration(max(1, n*int(rest/wait)))
	if row.memory, err = testbed.Resident(keyd.Pid()); err != nil {
		return row, err
	}
	var took []time.Duration
	row.each, err = spent(keyd, func() error {
		for range b.rounds {
			one, err := revoke(ctx, site, account)
			if err != nil {
				return err
			}
			took = append(took, one)
		}
		return nil
	})
	// Each round is two changes, the mint and the revocation.
	row.each /= time.Duration(2 * b.rounds * max(1, n))
	row.took = sample.Of(took)
	return row, err
}

// revoke mints a key, waits until all sidecars know of it, and times its revocation.
func revoke(ctx context.Context, site *testbed.Testbed, account string) (time.Duration, error) {
	key, err := site.Operators.Do(ctx, operatorapi.MintKey(account, operatorapi.NewKey{Label: "revoked"}).Waiting(operatorapi.MaxWait))
	if err != nil {
		return 0, err
	}
	began := time.Now()
	answer, err := site.Operators.Do(ctx, operatorapi.RevokeKey(key.Key.ID).Waiting(operatorapi.MaxWait))
	if err == nil && !answer.Change.Effective {
		err = fmt.Errorf("not effective: %+v", answer.Change)
	}
	return time.Since(began), err
}

// spent is the processor time of keyd's while do runs.
func spent(keyd *testbed.Process, do func() error) (time.Duration, error) {
	before, err := testbed.CPU(keyd.Pid())
	if err != nil {
		return 0, err
	}
	if err := do(); err != nil {
		return 0, err
	}
	after, err := testbed.CPU(keyd.Pid())
	return after - before, err
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
