package keycache_test

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keycache"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// oneKey is a key API with one key and no change log.
type oneKey struct{ digest credential.Digest }

func (k oneKey) Resolve(_ context.Context, digests []credential.Digest) (sidecarapi.Resolved, error) {
	fmt.Println("resolve", len(digests))
	out := sidecarapi.Resolved{Epoch: "one", Revision: 1}
	for _, d := range digests {
		r := sidecarapi.Result{Outcome: sidecarapi.NotFound}
		if d == k.digest {
			r = sidecarapi.Result{Outcome: sidecarapi.Found, Record: credential.Record{ID: "key_1", State: credential.Active}}
		}
		out.Results = append(out.Results, r)
	}
	return out, nil
}

func (oneKey) Changes(context.Context, sidecarapi.ChangesRequest) (sidecarapi.Changes, error) {
	return sidecarapi.Changes{}, sidecarapi.ErrNotOffered
}

// The second look-up of a digest is a cache hit.
func Example() {
	key := credential.NewSecret("secret").Digest()
	cache := keycache.New(oneKey{key}, keycache.Options{
		Name:            func() string { return "sidecar-1" },
		ChangesOptional: true, // else nothing cached answers without a change log
		Known:           1000,
		Unknown:         1000,
		Times:           keycache.Times{MaxAge: time.Hour, ConfirmAfter: 10 * time.Second, MaxStale: 15 * time.Minute},
		Admission:       keycache.Admission{PerSecond: 200, Burst: 400},
		Log:             zap.NewNop(),
		Metrics:         prometheus.NewRegistry(),
	})
	defer cache.Close()
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = cache.Run(ctx) })
	defer func() { stop(); running.Wait() }()
	<-cache.Answered()

	for _, d := range []credential.Digest{key, key, credential.NewSecret("wrong").Digest()} {
		rec, found, err := cache.Lookup(ctx, d)
		fmt.Println(found, rec.ID, err)
	}
	// Output:
	// resolve 1
	// true key_1 <nil>
	// true key_1 <nil>
	// resolve 1
	// false  <nil>
}
