// Command revoke measures the time from an operator's revocation of a key until keyd answers that it is effective: no sidecar
// can allow the key any more.
//
// Keyd is a separate process with a store on disk. The sidecars are real caches with real clients, each with its long poll, in this
// process. The baseline is a mint without sidecars: one request and one durable commit.
package main

import (
	"context"
	"flag"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/bench"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keycache"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

// required is the limit of the median.
const required = 50 * time.Millisecond

var (
	rounds   = flag.Int("rounds", 200, "revocations for each number of sidecars")
	sidecars = flag.Int("sidecars", 500, "the largest number of sidecars")
)

func main() {
	bench.Main(func(ctx context.Context) error {
		return testbed.Run(ctx, func(tb *testbed.Testbed) (err error) {
			if _, err := tb.StartKeyd(ctx, bench.Quiet()); err != nil {
				return err
			}
			r := &revocations{Testbed: tb}
			if r.account, err = tb.CreateAccount(ctx); err != nil {
				return err
			}
			ctx, cancel := context.WithCancel(ctx)
			defer func() { cancel(); r.running.Wait() }()
			return r.measureAll(ctx)
		}, "cmd/keyd")
	})
}

type revocations struct {
	*testbed.Testbed
	account   string
	connected int // sidecars
	running   sync.WaitGroup
}

func (r *revocations) measureAll(ctx context.Context) error {
	baseline, err := r.measure(ctx, func(testbed.Key) error {
		_, err := r.MintKey(ctx, r.account)
		return err
	})
	if err != nil {
		return err
	}
	fmt.Printf("From the request to `effective: true` in the answer, %d revocations each.\n\n", *rounds)
	fmt.Println("| | median | p99 | maximum | median to the baseline's | median under", required, "|\n|---|---|---|---|---|---|")
	fmt.Printf("| baseline: a mint without sidecars | %s | 1 | |\n", baseline)
	for _, n := range []int{0, 1, 10, 100, 250, 500} {
		if n > *sidecars {
			break
		}
		if err := r.connect(ctx, n); err != nil {
			return err
		}
		took, err := r.measure(ctx, func(key testbed.Key) error {
			_, err := bench.AwaitEffective(ctx, r.Testbed, operatorapi.RevokeKey(key.ID))
			return err
		})
		if err != nil {
			return err
		}
		fmt.Printf("| %d sidecars | %s | %.1f | %t |\n", n, took, float64(took.Median())/float64(baseline.Median()), took.Median() < required)
	}
	return nil
}

// measure returns the times of do, each with a new key.
func (r *revocations) measure(ctx context.Context, do func(testbed.Key) error) (bench.Times, error) {
	var all []time.Duration
	for range *rounds {
		key, err := r.MintKey(ctx, r.account)
		if err != nil {
			return nil, err
		}
		if err := r.awaitPolls(ctx); err != nil {
			return nil, err
		}
		began := time.Now()
		if err := do(key); err != nil {
			return nil, err
		}
		all = append(all, time.Since(began))
	}
	return bench.Sort(all), nil
}

// awaitPolls waits until the mint has reached all sidecars, so that all have sent their next polls.
func (r *revocations) awaitPolls(ctx context.Context) error {
	return testbed.Until(ctx, func() error {
		list, err := r.Operators.Sidecars(ctx)
		if err != nil || len(list.Items) == 0 {
			return err
		}
		for _, s := range list.Items {
			if s.Revision != list.Items[0].Revision {
				return fmt.Errorf("%s is at revision %d", s.Name, s.Revision)
			}
		}
		_, err = bench.AwaitEffective(ctx, r.Testbed, operatorapi.Revision(list.Items[0].Revision))
		return err
	})
}

// connect starts sidecars until there are n, and waits until all have a lease.
func (r *revocations) connect(ctx context.Context, n int) error {
	for ; r.connected < n; r.connected++ {
		client, err := bench.SidecarClient(r.Testbed, 400*time.Millisecond)
		if err != nil {
			return err
		}
		cache := keycache.New(client, keycache.Options{
			Name:  func() string { return "sidecar-" + credential.RandomBase62(8) },
			Known: 1000, Unknown: 1000,
			Times:     keycache.Times{MaxAge: time.Hour, ConfirmAfter: 10 * time.Second, MaxStale: 15 * time.Minute},
			Admission: keycache.Admission{PerSecond: 200, Burst: 400},
			Log:       zap.NewNop(),
			Metrics:   prometheus.NewRegistry(),
		})
		r.running.Go(func() {
			_ = cache.Run(ctx) // it returns no error
			cache.Close()
		})
	}
	return bench.AwaitSidecars(ctx, r.Testbed, n)
}
