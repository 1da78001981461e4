package faults_test

import (
	"context"
	"errors"
	"flag"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/bench/result"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

var (
	mixedTime = flag.Duration("mixed", mixedPace.total, "duration of each mixed load")
	mixedJSON = flag.String("mixed.json", "", "write the results of the mixed load to this file, for bench/report")
)

// pace has the times and rates of a mixed load.
type pace struct {
	total                 time.Duration
	perSecond             int           // requests
	change, update, fault time.Duration // between two changes of operators, updates of Envoy's configuration and outages
	firstFault            time.Duration // not later than settled
	restart               time.Duration // between two restarts of a sidecar; less in a short run
	lease, maxStale       time.Duration
	outage                [2]time.Duration // in turn: one that cached keys do not survive, and one that they do
	sample                time.Duration
	settled               time.Duration // memory may grow until then, while the caches fill
}

// mixed is a load of requests through an Envoy, while operators change keys, the key API fails, Envoy's configuration is updated
// and a sidecar is restarted.
type mixed struct {
	*fixture
	t        *testing.T
	front    mixedFront
	began    time.Time // of the load
	route    *route
	proxy    *proxy
	deciders []*decider
	leaving  *envoyClient // of abandoned requests: net/http may end another request on the same connection
	xds      *xds
	outages  outages
	sampler  *sampler
	machine  *machine

	none, unknown    *subject
	kept             []*subject // keys and sessions
	revoked          []*subject
	me, chat, flip   *endpoint
	mu               sync.Mutex
	changing         []*subject
	following        sync.WaitGroup
	results          *results
	changes, updates atomic.Int64
	late             atomic.Int64 // uncached keys with a 503 while no outage was made
	stalledOut       atomic.Int64 // the same, or no answer, while the machine stalled
	lateLookUps      float64      // failed look-ups while no outage was made

	disturbing   sync.Mutex // held by an outage or a restart
	restarting   atomic.Bool
	restarts     []restart
	failedBefore float64 // failed look-ups of processes that a restart has ended
	effective    []effect
}

// The check in Envoy itself; TestMixedLoad says what is checked.
func TestMixedLoadWithTheModule(t *testing.T) { testMixedLoad(t, behindModule{}) }

// Every request of a mixed load gets an answer that the credential's facts and the endpoint's requirement want: those in force
// when it was sent or since then. Cached keys are served during an outage until max_stale is over. A sidecar survives updates
// of listeners and loses no request when it is restarted, and neither memory nor descriptors nor goroutines grow.
func TestMixedLoad(t *testing.T) { testMixedLoad(t, behindAuthzd{}) }

func testMixedLoad(t *testing.T, front mixedFront) {
	t.Helper()
	built(t) // before the meter starts
	var file result.File
	writeAtTheEnd(t, &file)
	m := newMixed(t, front)
	idle := m.sampler.measure()
	m.run()
	file = m.report(time.Since(m.began))
	m.checkLate()
	m.checkIdle(idle)
	m.checkEnd()
	for _, g := range file.Goals {
		if !g.Reached() {
			t.Errorf("%s: %s, must be at most %v", g.Name, g.Measured, g.AtMost)
		}
	}
}

func newMixed(t *testing.T, front mixedFront) *mixed {
	t.Helper()
	s := newFixture(t, testbed.Config{"lease": milliseconds(mixedPace.lease), "log": testbed.Config{"level": "info"}})
	m := &mixed{fixture: s, t: t, front: front, route: newRoute(t, s), xds: &xds{dir: s.Dir, front: front}, machine: newMachine(t)}
	m.results = newResults()
	front.start(m)
	m.xds.admin = m.proxy.admin
	m.leaving = newEnvoyClient(t, m.proxy.addr)
	m.me = &endpoint{"/api/v1/me", newHistory(false)}
	m.chat = &endpoint{"/api/v1/chat", newHistory(true)}
	m.flip = &endpoint{flipPath, newHistory(false)}
	m.seed()
	m.sampler = newSampler(m)
	return m
}

// run runs the load and waits until all of it is answered.
func (m *mixed) run() {
	m.began = time.Now()
	ctx, cancel := context.WithTimeout(m.t.Context(), *mixedTime)
	defer cancel()
	var working sync.WaitGroup
	each := func(first, every time.Duration, work func(ctx context.Context, n int)) {
		working.Go(func() {
			tick := time.NewTicker(first)
			defer tick.Stop()
			for n := 0; ; n++ {
				select {
				case <-tick.C:
					tick.Reset(every)
					work(ctx, n)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	each(mixedPace.change, mixedPace.change, func(_ context.Context, n int) { m.changeKeys(n) })
	each(mixedPace.update, mixedPace.update, m.updateEnvoy)
	each(mixedPace.firstFault, mixedPace.fault, m.failKeyAPI)
	if _, ok := m.front.(behindAuthzd); ok {
		every := min(mixedPace.restart, *mixedTime/6)
		each(every, every, m.restartSidecar)
	}
	probing, stop := context.WithCancel(context.Background())
	var probes sync.WaitGroup
	probes.Go(func() { m.machine.run(probing, m.t) })
	defer func() { stop(); probes.Wait() }() // after the last answer
	each(mixedPace.sample, mixedPace.sample, func(context.Context, int) { m.sampler.take() })
	m.send(ctx)
	working.Wait()
	m.following.Wait()
}

// kind is a share of the requests, in percent.
type kind struct {
	name  string
	share int
	ask   func(m *mixed) question
}

const abandoned = "abandoned" // its client goes away after some milliseconds

var kinds = []kind{
	{"cached key", 50, func(m *mixed) question { return ask(pick(m.kept), m.me, "") }},
	{"cached key, scope", 10, func(m *mixed) question { return ask(pick(m.kept), m.chat, "") }},
	{"cached key, changing requirement", 5, func(m *mixed) question { return ask(pick(m.kept), m.flip, "") }},
	{"changing key", 10, func(m *mixed) question { return ask(m.pickChanging(), m.me, "") }},
	{"changing key, scope", 5, func(m *mixed) question { return ask(m.pickChanging(), m.chat, "") }},
	{"changing key, upload", 1, func(m *mixed) question { return ask(m.pickChanging(), m.me, upload) }},
	{"revoked key", 5, func(m *mixed) question { return ask(pick(m.revoked), m.me, "") }},
	{"unknown key", 4, func(m *mixed) question { return ask(m.newUnknown(), m.me, "") }},
	{abandoned, 1, func(m *mixed) question { return ask(m.newUnknown(), m.me, "") }},
	{"no credential", 9, func(m *mixed) question { return ask(m.none, m.me, "") }},
}

// upload is larger than per_connection_buffer_limit_bytes of envoy.yaml.
var upload = strings.Repeat("upload ", 20_000)

func pick(of []*subject) *subject { return of[rand.IntN(len(of))] }

func pickKind() kind {
	n := rand.IntN(100)
	for _, k := range kinds {
		if n -= k.share; n < 0 {
			return k
		}
	}
	panic("the shares do not add up to 100")
}

// newUnknown returns a key that was never minted. One of a hundred is a canary: more would take much memory.
func (m *mixed) newUnknown() *subject {
	secret := credential.Mint(credential.Key)
	if rand.IntN(100) == 0 {
		m.Canaries.Add(secret.Reveal())
	}
	return &subject{secret: secret, facts: m.unknown.facts}
}

// send sends requests at the rate until ctx ends, and waits for their answers.
func (m *mixed) send(ctx context.Context) {
	const most = 2000 // requests in flight
	var inFlight sync.WaitGroup
	slots := make(chan struct{}, most)
	began, sent := time.Now(), 0
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		<-tick.C
		due := int(time.Since(began).Seconds() * float64(mixedPace.perSecond))
		for due = min(due, sent+mixedPace.perSecond/10); sent < due; sent++ {
			k := pickKind()
			slots <- struct{}{}
			inFlight.Go(func() {
				defer func() { <-slots }()
				m.sendOne(k)
			})
		}
	}
	inFlight.Wait()
}

func (m *mixed) sendOne(k kind) {
	limit, client := testbed.Patience, m.proxy.envoyClient
	if k.name == abandoned {
		client = m.leaving
		limit = time.Duration(rand.IntN(5000)) * time.Microsecond
	}
	q := k.ask(m)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	sent := time.Now()
	got, err := client.send(ctx, q.request())
	received := time.Now()
	m.results.count(m.phase(sent, received), k, q, got.Answer, err, received.Sub(sent))
	switch {
	case err != nil && (k.name == abandoned || q.mayBeDenied(&m.outages, sent, received)):
		return
	case err != nil && m.machine.stalled(sent, received):
		m.stalledOut.Add(1)
		return
	case err != nil:
	case got.Answer == unavailable && m.outages.excuse(sent, received, q.kept):
		m.results.kinds[k.name].excused.Add(1)
		return
	case got.Answer == unavailable && m.stallDenies(sent, received):
		m.stalledOut.Add(1)
		return
	case got.Answer == unavailable && !q.kept:
		m.late.Add(1)
		return
	case got.Answer == rateLimited && q.facts == m.unknown.facts:
		return
	default:
		err = q.judge(got)
	}
	if err != nil && m.results.kinds[k.name].wrong.Add(1) <= 5 {
		m.t.Errorf("%s: %s %s, sent %s, after %v: %v (%s)", k.name, q.path, q.id, sent.Format(clock), received.Sub(sent), err, &m.outages)
	}
}

// stallDenies reports whether a stall of the machine may have made a sidecar answer 503: it made the check too late, or the lease
// was lost.
func (m *mixed) stallDenies(sent, received time.Time) bool {
	return m.machine.stalled(sent, received) ||
		m.machine.stalledFor(mixedPace.lease/2, sent.Add(-mixedPace.lease-mixedPace.maxStale), received)
}

// phase returns what disturbed the load between these times.
func (m *mixed) phase(from, to time.Time) phase {
	switch {
	case m.machine.stalled(from, to):
		return stalled
	case m.outages.during(from, to):
		return inOutage
	case m.restarting.Load():
		return inRestart
	default:
		return undisturbed
	}
}

// checkEnd checks that every key has the state of its latest change, and that the end of the processes deregisters the sidecars.
func (m *mixed) checkEnd() {
	m.t.Helper()
	for _, s := range m.changing {
		want := s.facts.latest().answer
		eventually(m.t, s.id, func() error { return checkIs(m.proxy, s.secret, want) })
	}
	for _, d := range m.deciders {
		if err := errors.Join(metricIs(m.t, d.now(), panics, 0), m.SearchPages(m.t.Context(), d.now())); err != nil {
			m.t.Error(err)
		}
	}
	m.stop(m.proxy.Process)
	for _, d := range m.deciders {
		if p := d.now(); p != m.proxy.Process {
			m.stop(p)
		}
	}
	if all := must(m.Operators.Sidecars(m.t.Context()))(m.t); len(all.Items) != 0 {
		m.t.Errorf("sidecars after their end: %+v", all.Items)
	}
}

// stop ends a process as an operator does.
func (m *mixed) stop(p *testbed.Process) {
	m.t.Helper()
	if code, err := p.Stop(syscall.SIGTERM); err != nil || code != 0 {
		m.t.Errorf("%s: exit code %d, %v", p.Name, code, err)
	}
}
