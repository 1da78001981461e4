// Command revoke measures how long it takes from an operator's revocation of a key
// until keyd answers that it is effective: that no sidecar can let it in any more.
//
// Keyd is a process of its own with a store on disk. The sidecars are the real
// caches with their real clients, each with its long poll open, all in this
// process. The baseline is a mint without any sidecar: one request and one durable
// commit.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/bench/sample"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keycache"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// required is what the median must be below, with all sidecars connected.
const required = 50 * time.Millisecond

func main() {
	rounds := flag.Int("rounds", 200, "revocations for each number of sidecars")
	most := flag.Int("sidecars", 500, "the greatest number of sidecars")
	flag.Parse()
	if err := run(context.Background(), *rounds, *most); err != nil {
		fmt.Fprintln(os.Stderr, "revoke:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, rounds, most int) error {
	return testbed.Run(ctx, func(site *testbed.Testbed) (err error) {
		if _, err := site.StartKeyd(ctx, testbed.Config{"log": testbed.Config{"level": "info"}}); err != nil {
			return err
		}
		b := &bench{Testbed: site, rounds: rounds, most: most}
		if b.account, err = site.CreateAccount(ctx); err != nil {
			return err
		}
		defer b.stop()
		return b.all(ctx)
	}, "cmd/keyd")
}

type bench struct {
	*testbed.Testbed
	rounds  int
	most    int
	account string
	caches  []*keycache.Cache
	end     []context.CancelFunc
	running sync.WaitGroup
}

func (b *bench) all(ctx context.Context) error {
	baseline, err := b.measure(ctx, func(testbed.Key) error {
		_, err := b.MintKey(ctx, b.account)
		return err
	})
	if err != nil {
		return err
	}
	fmt.Printf("From `revoke` sent to `effective: true` answered, %d revocations each.\n\n", b.rounds)
	fmt.Println("| | median | p99 | longest | median to the baseline's | median under", required, "|\n|---|---|---|---|---|---|")
	fmt.Printf("| baseline: a mint, no sidecar | %s | 1 | |\n", baseline)
	for _, n := range []int{0, 1, 10, 100, 250, 500} {
		if n > b.most {
			break
		}
		if err := b.connect(ctx, n); err != nil {
			return err
		}
		took, err := b.measure(ctx, func(key testbed.Key) error {
			answer, err := b.Operators.Do(ctx, operatorapi.RevokeKey(key.ID).Waiting(operatorapi.MaxWait))
			if err == nil && !answer.Change.Effective {
				err = fmt.Errorf("not effective: %+v", answer.Change)
			}
			return err
		})
		if err != nil {
			return err
		}
		fmt.Printf("| %d sidecars | %s | %.1f | %t |\n", n, took, float64(took.Median())/float64(baseline.Median()), took.Median() < required)
	}
	return nil
}

// measure times rounds of something that is done to a fresh key.
func (b *bench) measure(ctx context.Context, do func(testbed.Key) error) (sample.Times, error) {
	var all []time.Duration
	for range b.rounds {
		key, err := b.MintKey(ctx, b.account)
		if err != nil {
			return nil, err
		}
		if err := b.quiet(ctx); err != nil {
			return nil, err
		}
		began := time.Now()
		if err := do(key); err != nil {
			return nil, err
		}
		all = append(all, time.Since(began))
	}
	return sample.Of(all), nil
}

// quiet waits until the mint has reached all sidecars: they wait in their polls.
func (b *bench) quiet(ctx context.Context) error {
	return testbed.Until(ctx, func() error {
		head, err := b.Operators.Sidecars(ctx)
		if err != nil || len(head.Items) == 0 {
			return err
		}
		for _, s := range head.Items {
			if s.Revision != head.Items[0].Revision {
				return fmt.Errorf("%s is at %d", s.Name, s.Revision)
			}
		}
		answer, err := b.Operators.Do(ctx, operatorapi.Revision(head.Items[0].Revision).Waiting(operatorapi.MaxWait))
		if err == nil && !answer.Change.Effective {
			err = fmt.Errorf("%+v", answer.Change)
		}
		return err
	})
}

// connect starts sidecars until there are n, and waits until all have a lease.
func (b *bench) connect(ctx context.Context, n int) error {
	token, err := b.SidecarToken()
	if err != nil {
		return err
	}
	for len(b.caches) < n {
		client := sidecarapi.New(sidecarapi.Options{
			URL:     &url.URL{Scheme: "unix", Path: b.Socket("sidecars")},
			Token:   func() credential.Secret { return token },
			Timeout: 400 * time.Millisecond,
		})
		cache := keycache.New(client, keycache.Options{
			Name:  func() string { return fmt.Sprintf("sidecar-%s", credential.RandomBase62(8)) },
			Known: 1000, Unknown: 1000,
			Times:     keycache.Times{MaxAge: time.Hour, ConfirmAfter: 10 * time.Second, MaxStale: 15 * time.Minute},
			Admission: keycache.Admission{PerSecond: 200, Burst: 400},
			Log:       zap.NewNop(),
			Metrics:   prometheus.NewRegistry(),
		})
		runs, cancel := context.WithCancel(ctx)
		b.running.Go(func() { _ = cache.Run(runs) }) // it returns no error
		b.caches, b.end = append(b.caches, cache), append(b.end, cancel)
	}
	return testbed.Until(ctx, func() error {
		list, err := b.Operators.Sidecars(ctx)
		if err == nil && len(list.Items) != n {
			err = fmt.Errorf("%d of %d sidecars are connected", len(list.Items), n)
		}
		return err
	})
}

func (b *bench) stop() {
	for _, cancel := range b.end {
		cancel()
	}
	b.running.Wait()
	for _, cache := range b.caches {
		cache.Close()
	}
}
