package faults_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// recorder counts the digests that a sidecar resolves.
type recorder struct {
	mu       sync.Mutex
	requests map[string]int // by digest
	hold     func()         // called before keyd answers, if not nil
}

// record starts recording on the route.
func (l *recorder) record(r *route) {
	l.requests = map[string]int{}
	var answer answerer = func(w http.ResponseWriter, req *http.Request, keyd http.Handler) {
		if req.URL.Path == sidecarapi.ResolvePath {
			body, err := io.ReadAll(req.Body)
			if err != nil {
				return
			}
			req.Body = io.NopCloser(strings.NewReader(string(body)))
			l.add(body)
			if l.hold != nil {
				l.hold()
			}
		}
		keyd.ServeHTTP(w, req)
	}
	r.answer.Store(&answer)
}

func (l *recorder) add(body []byte) {
	var request sidecarapi.ResolveRequest
	_ = json.Unmarshal(body, &request) // an invalid body counts nothing, and fails the test
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, digest := range request.Credentials {
		l.requests[digest]++
	}
}

func (l *recorder) times(s credential.Secret) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.requests[s.Digest().Hex()]
}

func (l *recorder) total() (times int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.requests {
		times += n
	}
	return times
}

// Concurrent checks of one uncached key cause one request.
func TestConcurrentMissesCauseOneRequest(t *testing.T) {
	const misses = 10_000
	s := newFixture(t, nil)
	rt := newRoute(t, s)
	sidecar := s.authzd("one", testbed.Config{
		"key_api": testbed.Config{"url": rt.url, "token_file": "key-api.token", "timeout": "30s"},
	})
	// The answer is delayed until all checks wait for it, so that none is a cache hit.
	waiting := func() error { return metricIs(t, sidecar, "phantom_authz_shared_loads_total", misses-1) }
	held := &recorder{hold: func() {
		if err := testbed.Until(t.Context(), waiting); err != nil {
			t.Error(err)
		}
	}}
	held.record(rt)
	secret := s.mint().Secret
	connections := []*testbed.CheckClient{s.checks("one"), s.checks("one")} // a connection takes 8,192 checks in flight
	eventually(t, "synced", func() error { return metricIs(t, sidecar, synced, 1) })
	var checks sync.WaitGroup
	var wrong atomic.Int64
	for i := range misses {
		checks.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), testbed.Patience)
			defer cancel()
			if got, err := connections[i%2].Check(ctx, secret, grpc.WaitForReady(true)); err != nil || got != allowed {
				wrong.Add(1)
			}
		})
	}
	checks.Wait()
	if n := held.times(secret); n != 1 {
		t.Errorf("%d requests", n)
	}
	if n := wrong.Load(); n != 0 {
		t.Errorf("%d of %d answers were wrong", n, misses)
	}
}

// Limits of the sidecar of TestFlood.
const (
	floodPerSecond = 200
	floodBurst     = 400
	floodFrozen    = 10_000 // unknown keys while the key API does not answer
	// floodMemory is the limit of the sidecar's memory: full pools of some tens of MiB, and as much again and the headroom for
	// the garbage collector.
	floodMemory = 256 << 20
)

// A flood of unknown keys neither exceeds the rate limit of requests to the key API nor delays good keys, even while the key API
// does not answer. bench/flood measures the latency of good keys.
func TestFlood(t *testing.T) {
	testFlood(t, throughAuthzd, 1, floodMemory, func(s *fixture, _ checker) generator {
		return func(ctx context.Context, keys int) (map[string]int, error) {
			return s.GenerateLoad(ctx, "flooded", testbed.Load{Checks: keys})
		}
	})
}

// TestFloodWithTheModule is TestFlood behind an Envoy with the module, whose memory includes Envoy's.
func TestFloodWithTheModule(t *testing.T) {
	const ofEnvoy = 256 << 20
	testFlood(t, throughModule, requestCost, floodMemory+ofEnvoy, floodEnvoy)
}

// generator sends checks of unknown keys at full speed, and returns the answers by reason.
type generator func(ctx context.Context, keys int) (map[string]int, error)

// floodEnvoy sends requests on many connections: those that wait for the key API must not keep the others from being sent.
func floodEnvoy(s *fixture, through checker) generator {
	return func(ctx context.Context, keys int) (map[string]int, error) {
		const connections = 1000
		var mu sync.Mutex
		answers := map[string]int{}
		var sent atomic.Int64
		var sending errgroup.Group
		for range connections {
			sending.Go(func() error {
				for n := sent.Add(1); n <= int64(keys); n = sent.Add(1) {
					key := credential.Mint(credential.Key)
					if n%100 == 0 { // all would take much memory
						s.Canaries.Add(key.Reveal())
					}
					got, err := through.CheckAsEnvoy(ctx, key)
					if err != nil {
						return err
					}
					mu.Lock()
					answers[got.Reason]++
					mu.Unlock()
				}
				return nil
			})
		}
		return answers, sending.Wait()
	}
}

// testFlood tests a front. Each check has the cost; memory is the limit.
func testFlood(t *testing.T, through front, cost int, memory int64, of func(*fixture, checker) generator) {
	t.Helper()
	keys, frozenKeys := floodKeys/cost, floodFrozen/cost
	s := newFixture(t, testbed.Config{"lease": "30m"}) // polls may be late in a flood
	rt := newRoute(t, s)
	sidecar, prober := through.start(s, t, "flooded", testbed.Config{
		// Failed requests cost no token, so on a slow machine none must fail.
		"key_api":   testbed.Config{"url": rt.url, "token_file": "key-api.token", "timeout": "20s"},
		"admission": testbed.Config{"unknown_per_second": floodPerSecond, "burst": floodBurst},
	})
	hot := make([]credential.Secret, 20)
	for i := range hot {
		hot[i] = s.mint().Secret
	}
	eventually(t, "synced", func() error { return metricIs(t, sidecar, synced, 1) })
	s.settle() // the change that mints a key may invalidate it
	f := &flood{fixture: s, sidecar: sidecar, prober: prober, generate: of(s, prober), hot: hot}
	awaitAllowed(t, f.prober, hot) // so that they are cached
	answering := &recorder{}
	answering.record(rt)
	began := time.Now()
	answers := f.send(keys)
	if answers[unknown.Reason] == 0 || answers[rateLimited.Reason] == 0 {
		t.Errorf("answers: %v", answers)
	}
	over := make(chan struct{})
	defer close(over)
	frozen := &recorder{hold: func() { <-over }}
	frozen.record(rt)
	frozenAnswers := f.send(frozenKeys)
	took := time.Since(began)
	if frozenAnswers[unknown.Reason] != 0 || frozenAnswers[rateLimited.Reason] == 0 {
		t.Errorf("answers while the key API does not answer: %v", frozenAnswers)
	}

	for _, secret := range hot {
		if n := answering.times(secret) + frozen.times(secret); n != 0 {
			t.Errorf("%d requests for a hot key", n)
		}
	}
	times := answering.total() + frozen.total()
	// Requests in flight at the end may have used the tokens of another moment.
	limit := floodBurst + int(took.Seconds()*floodPerSecond) + floodPerSecond/10
	if times > limit {
		t.Errorf("%d requests in %v, want at most %d", times, took, limit)
	}
	used := must(testbed.Resident(sidecar.Pid()))(t)
	if used > memory {
		t.Errorf("the sidecar uses %d MiB", used>>20)
	}
	t.Logf("%d unknown keys in %v: %v, and %v while the key API did not answer; %d requests (limit %d); the sidecar uses %d MiB",
		keys+frozenKeys, took.Round(time.Millisecond), answers, frozenAnswers, times, limit, used>>20)
}

// settle waits until all sidecars have acknowledged all changes.
func (s *fixture) settle() {
	s.t.Helper()
	key := s.mint()
	s.awaitEffective(must(s.Operators.Do(s.t.Context(), operatorapi.RevokeKey(key.ID)))(s.t).Change.Revision)
}

// flood is a sidecar and its hot keys.
type flood struct {
	*fixture
	sidecar *testbed.Process
	prober  checker
	hot     []credential.Secret

	generate generator
}

// send sends unknown keys at full speed and counts the answers. Meanwhile it checks hot keys, which must all be allowed from the
// cache.
func (f *flood) send(keys int) (answers map[string]int) {
	const series = `phantom_authz_lookups_total{result="hit"}`
	f.t.Helper()
	before := must(f.sidecar.Metric(f.t.Context(), series))(f.t)
	over := make(chan struct{})
	var failed error
	go func() {
		defer close(over)
		answers, failed = f.generate(f.t.Context(), keys)
	}()
	checked := 0
	for ; checked < len(f.hot) || !closed(over); checked++ {
		ctx, cancel := context.WithTimeout(f.t.Context(), testbed.Patience)
		got, err := f.prober.Check(ctx, f.hot[checked%len(f.hot)])
		cancel()
		if err != nil || got != allowed {
			f.t.Fatalf("hot key: %v, %v", got, err)
		}
	}
	if failed != nil {
		f.t.Fatal(failed)
	}
	if hits := must(f.sidecar.Metric(f.t.Context(), series))(f.t) - before; int(hits) != checked {
		f.t.Errorf("%d checks of hot keys, %v cache hits", checked, hits)
	}
	for reason, n := range answers {
		if reason != unknown.Reason && reason != rateLimited.Reason && reason != unavailable.Reason {
			f.t.Errorf("%d unknown keys were answered with %s", n, reason)
		}
	}
	return answers
}

// awaitAllowed waits until every key is allowed.
func awaitAllowed(t testing.TB, checks checker, keys []credential.Secret) {
	t.Helper()
	for _, secret := range keys {
		eventually(t, "good key", func() error {
			got, err := checks.CheckAsEnvoy(t.Context(), secret)
			if err == nil && got != allowed {
				err = fmt.Errorf("%v", got)
			}
			return err
		})
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
