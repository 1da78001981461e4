package faults_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/phantomrouter/phantom-authz/faults/running"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keyapi"
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
		if req.URL.Path == keyapi.ResolvePath {
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
	var ask keyapi.ResolveRequest
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

func (l *ledger) total() (digests, times int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.asked {
		times += n
	}
	return len(l.asked), times
}

// TestOneLookUp: however many ask for one key at once, the key API is asked once.
func TestOneLookUp(t *testing.T) {
	const misses = 10_000
	s := newSite(t, nil)
	way := newRoad(t, s)
	sidecar := s.authzd("one", running.Config{
		"key_api": running.Config{"url": way.url, "token_file": "key-api.token", "timeout": "30s"},
	})
	// The answer is held until all are there, so that none is a hit.
	waiting := func() error { return metricIs(t, sidecar, "phantom_authz_shared_loads_total", misses-1) }
	held := &ledger{hold: func() {
		if err := running.Until(t.Context(), waiting); err != nil {
			t.Error(err)
		}
	}}
	held.keep(way)
	secret, checks := s.mint().Secret, s.checks("one")
	eventually(t, "synced", func() error { return metricIs(t, sidecar, synced, 1) })
	var asking sync.WaitGroup
	var wrong atomic.Int64
	for range misses {
		asking.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), running.Patience)
			defer cancel()
			if got, err := checks.Check(ctx, secret, grpc.WaitForReady(true)); err != nil || got != allowed {
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

// flood is what a sidecar of the flood test may do.
const (
	floodPerSecond = 200
	floodBurst     = 400
	floodRate      = 3000 // a second, for comparison with as many known keys
	floodEven      = 3 * floodRate
	// floodMemory bounds the sidecar: both pools full are some tens of MiB, and Go's
	// collector keeps as much again.
	floodMemory = 256 << 20
)

// TestFlood: random keys as fast as they can be sent reach neither the key API nor
// those who have a good key.
func TestFlood(t *testing.T) {
	s := newSite(t, nil)
	way := newRoad(t, s)
	sidecar := s.authzd("flooded", running.Config{
		// A look-up that fails costs no token: on a slow machine none may.
		"key_api":   running.Config{"url": way.url, "token_file": "key-api.token", "timeout": "20s"},
		"admission": running.Config{"unknown_per_second": floodPerSecond, "burst": floodBurst},
	})
	hot := make([]credential.Secret, 20)
	for i := range hot {
		hot[i] = s.mint().Secret
	}
	eventually(t, "synced", func() error { return metricIs(t, sidecar, synced, 1) })
	prober := s.checks("flooded")
	askHot(t, prober, hot) // so that they are known
	kept := &ledger{}
	kept.keep(way)
	beside := func(order running.Order) (hotOnes spread, answers map[string]int) {
		order.Sidecar = "flooded"
		over := make(chan struct{})
		var err error
		go func() {
			defer close(over)
			answers, err = s.Crowd(t.Context(), order)
		}()
		hotOnes = latencies(t, prober, hot, 0, over)
		<-over
		if err != nil {
			t.Fatal(err)
		}
		return hotOnes, answers
	}
	quiet := latencies(t, prober, hot, 2*time.Second, nil)
	// What any load of that rate costs, and what unknown keys cost beyond it.
	known, _ := beside(running.Order{Key: hot[0].Reveal(), Checks: floodEven, PerSecond: floodRate})
	began := time.Now()
	even, answers := beside(running.Order{Checks: floodEven, PerSecond: floodRate})
	full, more := beside(running.Order{Checks: floodKeys})
	took := time.Since(began)
	for reason, n := range more {
		answers[reason] += n
	}

	for _, secret := range hot {
		if n := kept.times(secret); n != 0 {
			t.Errorf("the key API was asked %d times for a hot key", n)
		}
	}
	digests, times := kept.total()
	// What was asked before the clock began to run and is counted now: none; what is
	// under way when it stops: the tokens of one more moment.
	most := floodBurst + int(took.Seconds()*floodPerSecond) + floodPerSecond/10
	if times > most {
		t.Errorf("the key API was asked for %d digests %d times in %v, at most %d are let through", digests, times, took, most)
	}
	if answers[unknown.Reason] == 0 || answers[rateLimited.Reason] == 0 {
		t.Errorf("answers: %v", answers)
	}
	for reason, n := range answers {
		if reason != unknown.Reason && reason != rateLimited.Reason && reason != unavailable.Reason {
			t.Errorf("%d unknown keys: %s", n, reason)
		}
	}
	memory := must(running.Resident(sidecar.Pid()))(t)
	if memory > floodMemory {
		t.Errorf("the sidecar holds %d MiB", memory>>20)
	}
	t.Logf("%d unknown keys in %v: %v; the key API was asked for %d of them (bound %d); the sidecar holds %d MiB",
		floodEven+floodKeys, took.Round(time.Millisecond), answers, times, most, memory>>20)
	t.Logf("hot keys: alone %v; beside %d known keys a second %v; beside as many unknown ones %v; beside unknown ones at full speed %v",
		quiet, floodRate, known, even, full)
	// A generous bound: the machine is hardly ever the test's alone.
	if long && even.p99 > 3*known.p99+10*time.Millisecond {
		t.Errorf("the flood makes known keys wait")
	}
}

// askHot asks for every key until it is answered.
func askHot(t *testing.T, checks *running.Checks, keys []credential.Secret) {
	t.Helper()
	for _, secret := range keys {
		eventually(t, "a good key", func() error {
			got, err := checks.AsEnvoy(t.Context(), secret)
			if err == nil && got != allowed {
				err = fmt.Errorf("%v", got)
			}
			return err
		})
	}
}

// spread is what many checks took.
type spread struct {
	n        int
	p50, p99 time.Duration
}

func (s spread) String() string { return fmt.Sprintf("n=%d p50=%v p99=%v", s.n, s.p50, s.p99) }

// latencies asks for good keys one after the other, for so long or until over, and
// holds that each is let in.
func latencies(t *testing.T, checks *running.Checks, keys []credential.Secret, lasts time.Duration, over <-chan struct{}) spread {
	t.Helper()
	var took []time.Duration
	for began := time.Now(); over == nil && time.Since(began) < lasts || over != nil && !closed(over); {
		secret := keys[len(took)%len(keys)]
		asked := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), running.Patience)
		got, err := checks.Check(ctx, secret)
		cancel()
		if err != nil || got != allowed {
			t.Fatalf("a good key: %v, %v", got, err)
		}
		took = append(took, time.Since(asked))
	}
	slices.Sort(took)
	if len(took) == 0 {
		return spread{}
	}
	return spread{len(took), took[len(took)/2], took[len(took)*99/100]}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
