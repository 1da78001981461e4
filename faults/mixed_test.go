package faults_test

import (
	"context"
	"flag"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

var mixedTime = flag.Duration("mixed", mixedPace.total, "duration of the mixed load")

// pace has the times and rates of a mixed load.
type pace struct {
	total                 time.Duration
	perSecond             int           // requests
	change, update, fault time.Duration // between two changes of operators, updates of Envoy's configuration and outages
	firstFault            time.Duration // not later than settled
	lease, maxStale       time.Duration
	outage                [2]time.Duration // in turn: one that cached keys do not survive, and one that they do
	sample                time.Duration
	settled               time.Duration // memory may grow until then, while the caches fill
}

// mixed is a load of requests through an Envoy with the module, while operators change keys, the key API fails and Envoy's
// configuration is updated.
type mixed struct {
	*fixture
	t       *testing.T
	route   *route
	proxy   *proxy
	leaving *envoyClient // of abandoned requests: net/http may end another request on the same connection
	xds     *xds
	outages outages
	sampler *sampler

	none, unknown    *subject
	kept             []*subject // keys and sessions
	revoked          []*subject
	me, chat, flip   *endpoint
	mu               sync.Mutex
	changing         []*subject
	following        sync.WaitGroup
	results          results
	changes, updates atomic.Int64
	late             atomic.Int64 // uncached keys with a 503 while no outage was made
	lateLookUps      float64      // failed look-ups meanwhile
}

// Every request of a mixed load gets an answer that the credential's facts and the endpoint's requirement want: those in force
// when it was sent or since then. Cached keys are served during an outage until max_stale is over. The engine survives updates
// of listeners, and neither memory nor descriptors nor goroutines grow.
func TestMixedLoadWithTheModule(t *testing.T) {
	m := newMixed(t)
	idle := m.measure()
	began := time.Now()
	m.run()
	took := time.Since(began)
	m.results.log(t, took)
	t.Logf("%d changes, %d updates of Envoy's configuration, %d outages", m.changes.Load(), m.updates.Load(), len(m.outages.all))
	m.checkLate()
	m.sampler.check(*mixedTime >= 10*mixedPace.settled)
	m.checkIdle(idle)
	m.checkEnd()
}

func newMixed(t *testing.T) *mixed {
	t.Helper()
	s := newFixture(t, testbed.Config{"lease": milliseconds(mixedPace.lease), "log": testbed.Config{"level": "info"}})
	m := &mixed{fixture: s, t: t, route: newRoute(t, s), xds: &xds{dir: s.Dir}}
	m.results.kinds = map[string]*tally{}
	for _, k := range kinds {
		m.results.kinds[k.name] = &tally{}
	}
	m.proxy = s.startEnvoy(t, "envoy", envoyOptions{
		fields: testbed.Config{
			"key_api": testbed.Config{"url": m.route.url, "token_file": "key-api.token", "timeout": "1s"},
			"cache": testbed.Config{
				"confirm_after": milliseconds(mixedPace.lease / 2), "max_stale": milliseconds(mixedPace.maxStale),
				"credentials": 2000, "unknown": 2000, // they fill while the memory settles
			},
			"log": testbed.Config{"level": "info"},
		},
		edit: m.xds.take,
		args: []string{"--concurrency", "2", "--drain-time-s", "10"},
	})
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
	counts := m.results.kinds[k.name]
	counts.count(got.Answer, err, received.Sub(sent))
	switch {
	case err != nil && (k.name == abandoned || q.mayBeDenied(&m.outages, sent, received)):
		return
	case err != nil:
	case got.Answer == unavailable && m.outages.excuse(sent, received, q.kept):
		return
	case got.Answer == unavailable && !q.kept:
		m.late.Add(1)
		return
	case got.Answer == rateLimited && q.facts == m.unknown.facts:
		return
	default:
		err = q.judge(got)
	}
	if err != nil && counts.wrong.Add(1) <= 5 {
		m.t.Errorf("%s: %s %s, sent %s, after %v: %v (%s)", k.name, q.path, q.id, sent.Format(clock), received.Sub(sent), err, &m.outages)
	}
}

// checkEnd checks that every key has the state of its latest change, and that Envoy's end deregisters the sidecar.
func (m *mixed) checkEnd() {
	m.t.Helper()
	for _, s := range m.changing {
		want := s.facts.latest().answer
		eventually(m.t, s.id, func() error { return checkIs(m.proxy, s.secret, want) })
	}
	if err := metricIs(m.t, m.proxy.Process, `phantom_authz_panics_total{server="check"}`, 0); err != nil {
		m.t.Error(err)
	}
	if err := m.SearchPages(m.t.Context(), m.proxy.Process); err != nil {
		m.t.Error(err)
	}
	if code, err := m.proxy.Stop(syscall.SIGTERM); err != nil || code != 0 {
		m.t.Errorf("envoy: exit code %d, %v", code, err)
	}
	if all := must(m.Operators.Sidecars(m.t.Context()))(m.t); len(all.Items) != 0 {
		m.t.Errorf("sidecars after the end of Envoy: %+v", all.Items)
	}
}
