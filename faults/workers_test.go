package faults_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// workersRun is an Envoy with one worker, whose look-ups can be made to hang.
type workersRun struct {
	*fixture
	t       *testing.T
	proxy   *proxy
	known   credential.Secret
	hanging atomic.Pointer[chan struct{}] // look-ups wait until it is closed; nil: they are answered
}

const (
	waitingStreams   = 400
	measuredRequests = 2000
)

// Envoy's only worker never waits for the key API: while hundreds of streams wait for look-ups that hang, requests without a key
// and with a cached key take as long as beside look-ups that are answered. A worker that waits would need until the timeout of
// the look-up, which is 30 s.
func TestWorkersDoNotWaitForTheKeyAPI(t *testing.T) {
	const rounds = 3
	w := newWorkersRun(t)
	var answered, hung []float64
	for range rounds {
		answered = append(answered, w.measure(false))
		hung = append(hung, w.measure(true))
	}
	t.Logf("p99 in ms while look-ups are answered %.1f, while they hang %.1f", answered, hung)
	slices.Sort(answered)
	slices.Sort(hung)
	const factor, busy = 3, 50 // of the median p99, and milliseconds for a busy machine
	if base, got := answered[rounds/2], hung[rounds/2]; got > factor*base+busy {
		t.Errorf("p99 is %.1f ms while look-ups hang, %.1f ms otherwise", got, base)
	}
}

func newWorkersRun(t *testing.T) *workersRun {
	t.Helper()
	s := newFixture(t, nil)
	rt := newRoute(t, s)
	w := &workersRun{fixture: s, t: t, known: s.mint().Secret}
	w.proxy = s.startEnvoy(t, "envoy", envoyOptions{
		fields: testbed.Config{
			"key_api":   testbed.Config{"url": rt.url, "token_file": "key-api.token", "timeout": "30s"},
			"admission": testbed.Config{"unknown_per_second": 1_000_000, "burst": 1_000_000},
		},
	})
	eventually(t, "a lease", func() error { return metricIs(t, w.proxy.Process, synced, 1) })
	awaitAllowed(t, w.proxy, []credential.Secret{w.known})
	held := &recorder{hold: func() {
		if hanging := w.hanging.Load(); hanging != nil {
			<-*hanging
		}
	}}
	held.record(rt)
	return w
}

// measure returns the 99th percentile of the requests that need no look-up, in milliseconds, beside streams that do.
func (w *workersRun) measure(hang bool) float64 {
	w.t.Helper()
	hanging := make(chan struct{})
	release := sync.OnceFunc(func() { w.hanging.Store(nil); close(hanging) })
	w.t.Cleanup(release) // the test may fail before
	if hang {
		w.hanging.Store(&hanging)
	}
	var looking sync.WaitGroup
	lookUp := func() {
		secret := w.UnknownKey()
		looking.Go(func() {
			if got, err := w.proxy.CheckAsEnvoy(w.t.Context(), secret); err != nil || got != unknown {
				w.t.Errorf("unknown key: %v, %v", got, err)
			}
		})
	}
	for range waitingStreams {
		lookUp()
	}
	if hang {
		eventually(w.t, "waiting streams", w.streamsWait)
	} else {
		looking.Wait()
	}
	p99 := w.sendOthers(lookUp)
	release()
	looking.Wait()
	return p99
}

func (w *workersRun) streamsWait() error {
	const stat = "http.public.downstream_rq_active: "
	text, err := testbed.Get(w.t.Context(), w.proxy.admin+"/stats?filter=http.public.downstream_rq_active")
	active := 0
	if err == nil {
		_, err = fmt.Sscanf(string(text), stat+"%d", &active)
	}
	if err == nil && active < waitingStreams {
		err = fmt.Errorf("%s%d", stat, active)
	}
	return err
}

// sendOthers sends the measured requests, and now and then one with a look-up.
func (w *workersRun) sendOthers(lookUp func()) (p99 float64) {
	const clients, every = 4, 20
	var took durations
	var sent atomic.Int64
	var sending sync.WaitGroup
	for range clients {
		sending.Go(func() {
			for n := sent.Add(1); n <= measuredRequests; n = sent.Add(1) {
				if n%every == 0 {
					lookUp()
				}
				r, want := request{secret: w.known}, allowed
				switch n % 3 {
				case 0:
					r, want = request{}, missing
				case 1:
					r, want = request{path: "/api/v1/chat", secret: w.known}, scopeMissing
				}
				began := time.Now()
				got, err := w.proxy.send(w.t.Context(), r)
				took.add(time.Since(began))
				if err != nil || got.Answer != want {
					w.t.Errorf("%s: %v, %v", strings.TrimSpace(r.path), got, err)
				}
			}
		})
	}
	sending.Wait()
	return took.quantile(0.99)
}
