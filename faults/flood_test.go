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

	"google.golang.org/grpc"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// ledger notes what a sidecar asks the key API about.
type ledger struct {
	mu    sync.Mutex
	asked map[string]int // by digest
	hold  func()         // before an answer is given; nil: at once
}

// keep puts the ledger beside the road.
func (l *ledger) keep(r *road) {
	l.asked = map[string]int{}
	var answer answerer = func(w http.ResponseWriter, req *http.Request, keyd http.Handler) {
		if req.URL.Path == sidecarapi.ResolvePath {
			body, err := io.ReadAll(req.Body)
			if err != nil {
				return
			}
			req.Body = io.NopCloser(strings.NewReader(string(body)))
			l.note(body)
			if l.hold != nil {
				l.hold()
			}
		}
		keyd.ServeHTTP(w, req)
	}
	r.answer.Store(&answer)
}

func (l *ledger) note(body []byte) {
	var ask sidecarapi.ResolveRequest
	_ = json.Unmarshal(body, &ask) // a body that is none counts for nothing, and fails the test
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, digest := range ask.Credentials {
		l.asked[digest]++
	}
}

func (l *ledger) times(s credential.Secret) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked[s.Digest().Hex()]
}

func (l *ledger) total() (times int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.asked {
		times += n
	}
	return times
}

// TestOneLookUp: however many ask for one key at once, the key API is asked once.
func TestOneLookUp(t *testing.T) {
	const misses = 10_000
	s := newSite(t, nil)
	way := newRoad(t, s)
	sidecar := s.authzd("one", testbed.Config{
		"key_api": testbed.Config{"url": way.url, "token_file": "key-api.token", "timeout": "30s"},
	})
	// The answer is held until all are there, so that none is a hit.
	waiting := func() error { return metricIs(t, sidecar, "phantom_authz_shared_loads_total", misses-1) }
	held := &ledger{hold: func() {
		if err := testbed.Until(t.Context(), waiting); err != nil {
			t.Error(err)
		}
	}}
	held.keep(way)
	secret := s.mint().Secret
	connections := []*testbed.CheckClient{s.checks("one"), s.checks("one")} // one takes 8,192 checks in flight
	eventually(t, "synced", func() error { return metricIs(t, sidecar, synced, 1) })
	var asking sync.WaitGroup
	var wrong atomic.Int64
	for i := range misses {
		asking.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), testbed.Patience)
			defer cancel()
			if got, err := connections[i%2].Check(ctx, secret, grpc.WaitForReady(true)); err != nil || got != allowed {
				wrong.Add(1)
			}
		})
	}
	asking.Wait()
	if n := held.times(secret); n != 1 {
		t.Errorf("the key API was asked %d times", n)
	}
	if n := wrong.Load(); n != 0 {
		t.Errorf("%d of %d answers were wrong", n, misses)
	}
}

// What the sidecar of the flood test may do.
const (
	floodPerSecond = 200
	floodBurst     = 400
	floodFrozen    = 10_000 // unknown keys while the key API stands still
	// floodMemory bounds the sidecar: both pools full are some tens of MiB, and Go's
	// collector keeps as much again and its headroom.
	floodMemory = 256 << 20
)

// TestFlood: random keys as fast as they can be sent reach neither the key API nor
// those who have a good key, even while the key API answers nothing. What it does to
// the latency of good keys is measured by bench/flood.
func TestFlood(t *testing.T) {
	s := newSite(t, nil)
	way := newRoad(t, s)
	sidecar := s.authzd("flooded", testbed.Config{
		// A look-up that fails costs no token: on a slow machine none may.
		"key_api":   testbed.Config{"url": way.url, "token_file": "key-api.token", "timeout": "20s"},
		"admission": testbed.Config{"unknown_per_second": floodPerSecond, "burst": floodBurst},
	})
	hot := make([]credential.Secret, 20)
	for i := range hot {
		hot[i] = s.mint().Secret
	}
	eventually(t, "synced", func() error { return metricIs(t, sidecar, synced, 1) })
	f := &flood{site: s, sidecar: sidecar, prober: s.checks("flooded"), hot: hot}
	askHot(t, f.prober, hot) // so that they are known
	kept := &ledger{}
	kept.keep(way)
	began := time.Now()
	answers := f.send(floodKeys)
	if answers[unknown.Reason] == 0 || answers[rateLimited.Reason] == 0 {
		t.Errorf("answers: %v", answers)
	}
	thawed := make(chan struct{})
	defer close(thawed)
	frozen := &ledger{hold: func() { <-thawed }}
	frozen.keep(way)
	standing := f.send(floodFrozen)
	took := time.Since(began)
	if standing[unknown.Reason] != 0 || standing[rateLimited.Reason] == 0 {
		t.Errorf("answers while the key API stands still: %v", standing)
	}

	for _, secret := range hot {
		if n := kept.times(secret) + frozen.times(secret); n != 0 {
			t.Errorf("the key API was asked %d times for a hot key", n)
		}
	}
	times := kept.total() + frozen.total()
	// What was asked before the clock began to run and is counted now: none; what is
	// under way when it stops: the tokens of one more moment.
	most := floodBurst + int(took.Seconds()*floodPerSecond) + floodPerSecond/10
	if times > most {
		t.Errorf("the key API was asked %d times in %v, at most %d are let through", times, took, most)
	}
	memory := must(testbed.Resident(sidecar.Pid()))(t)
	if memory > floodMemory {
		t.Errorf("the sidecar holds %d MiB", memory>>20)
	}
	t.Logf("%d unknown keys in %v: %v, and %v while the key API stood still; it was asked for %d of them (bound %d); the sidecar holds %d MiB",
		floodKeys+floodFrozen, took.Round(time.Millisecond), answers, standing, times, most, memory>>20)
}

// flood is a sidecar with what it is asked.
type flood struct {
	*site
	sidecar *testbed.Process
	prober  *testbed.CheckClient
	hot     []credential.Secret
}

// send sends unknown keys at full speed and counts the answers. Beside them hot keys
// are asked for all the time: it holds that each is let in, from memory.
func (f *flood) send(keys int) (answers map[string]int) {
	const series = `phantom_authz_lookups_total{result="hit"}`
	f.t.Helper()
	before := must(f.sidecar.Metric(f.t.Context(), series))(f.t)
	over := make(chan struct{})
	var failed error
	go func() {
		defer close(over)
		answers, failed = f.GenerateLoad(f.t.Context(), "flooded", testbed.Load{Checks: keys})
	}()
	asked := 0
	for ; asked < len(f.hot) || !closed(over); asked++ {
		ctx, cancel := context.WithTimeout(f.t.Context(), testbed.Patience)
		got, err := f.prober.Check(ctx, f.hot[asked%len(f.hot)])
		cancel()
		if err != nil || got != allowed {
			f.t.Fatalf("a hot key: %v, %v", got, err)
		}
	}
	if failed != nil {
		f.t.Fatal(failed)
	}
	if hits := must(f.sidecar.Metric(f.t.Context(), series))(f.t) - before; int(hits) != asked {
		f.t.Errorf("%d checks of hot keys, and %v were answered from memory", asked, hits)
	}
	for reason, n := range answers {
		if reason != unknown.Reason && reason != rateLimited.Reason && reason != unavailable.Reason {
			f.t.Errorf("%d unknown keys: %s", n, reason)
		}
	}
	return answers
}

// askHot asks for every key until it is answered.
func askHot(t testing.TB, checks *testbed.CheckClient, keys []credential.Secret) {
	t.Helper()
	for _, secret := range keys {
		eventually(t, "a good key", func() error {
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
