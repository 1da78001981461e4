package faults_test

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// scenario ends one program repeatedly under load.
type scenario struct {
	name   string
	stale  time.Duration // the sidecar's max_stale
	limit  time.Duration // timeout of the key API
	strict promise
	once   func(*killRun) // ends the program and starts another
	module bool           // the front is an Envoy with the module
}

// killRun is a running scenario.
type killRun struct {
	*fixture
	t *testing.T
	scenario
	load  *load
	front *testbed.Process // authzd or Envoy
	addr  string           // of Envoy
}

// Both programs are ended by both signals under load. No answer is wrong, no acknowledged change is lost, and SIGTERM drops no
// request.
func TestKills(t *testing.T) {
	scenarios := []scenario{
		// A sidecar without a key API serves from its cache.
		{"keyd killed", time.Minute, 400 * time.Millisecond, promise{cached: true}, (*killRun).killKeyd, false},
		{"keyd terminated", time.Minute, 400 * time.Millisecond, promise{cached: true, changes: true}, (*killRun).terminateKeyd, false},
		// A change waits for the stale time of a killed sidecar.
		{"authzd killed", 2 * time.Second, 400 * time.Millisecond, promise{}, (*killRun).killFront, false},
		// The timeout is long, so that the successor resolves in time on a slow machine.
		{"authzd terminated", 2 * time.Second, 20 * time.Second, promise{cached: true, checks: true, changes: true}, (*killRun).terminateAuthzd, false},
	}
	testKills(t, scenarios)
}

// TestKillsWithTheModule is TestKills behind an Envoy with the module. SIGTERM ends Envoy without a drain, so requests fail.
func TestKillsWithTheModule(t *testing.T) {
	testKills(t, []scenario{
		{"keyd killed", time.Minute, 400 * time.Millisecond, promise{cached: true}, (*killRun).killKeyd, true},
		{"envoy killed", 2 * time.Second, 400 * time.Millisecond, promise{}, (*killRun).killFront, true},
		{"envoy terminated", 2 * time.Second, 400 * time.Millisecond, promise{changes: true}, (*killRun).terminateEnvoy, true},
	})
}

func testKills(t *testing.T, scenarios []scenario) {
	t.Helper()
	var all sync.WaitGroup
	for _, one := range scenarios {
		all.Go(func() {
			t.Run(one.name, func(t *testing.T) {
				s := &killRun{t: t, scenario: one, fixture: newFixture(t, testbed.Config{"lease": "1s"})}
				s.run()
			})
		})
	}
	all.Wait()
}

const killSidecar = "sidecar"

func (s *killRun) start() checker {
	s.t.Helper()
	changes := testbed.Config{
		"key_api": testbed.Config{"url": "unix://" + s.Socket("sidecars"), "token_file": "key-api.token", "timeout": milliseconds(s.limit)},
		"cache":   testbed.Config{"confirm_after": "500ms", "max_stale": milliseconds(s.stale)},
	}
	var checks checker
	if s.module {
		p := s.startEnvoy(s.t, killSidecar, envoyOptions{addr: s.addr, fields: changes})
		s.front, checks, s.addr = p.Process, p, p.addr
	} else {
		s.front, checks = throughAuthzd.start(s.fixture, s.t, killSidecar, changes)
	}
	eventually(s.t, s.front.Name, func() error { return testbed.Probe(s.t.Context(), s.front.Admin()+"/readyz") })
	return checks
}

func (s *killRun) run() {
	s.load = newLoad(s.fixture, s.t, s.start(), s.strict)
	stop := s.load.start()
	for range killsOfEach {
		s.load.awaitProgress(40, 4)
		s.once(s)
		s.load.awaitCached()
	}
	s.load.awaitProgress(40, 4)
	stop()
	s.load.checkChanges()
	s.t.Logf("%d times: %s", killsOfEach, s.load)
}

func (s *killRun) end(p *testbed.Process, by syscall.Signal, want int) {
	s.t.Helper()
	if code, err := p.Stop(by); err != nil || code != want {
		s.t.Errorf("%s: exit code %d, %v", p.Name, code, err)
	}
}

func (s *killRun) killKeyd() {
	s.end(s.keyd, syscall.SIGKILL, -1)
	s.restartKeyd()
}

func (s *killRun) terminateKeyd() {
	s.end(s.keyd, syscall.SIGTERM, 0)
	s.restartKeyd()
}

func (s *killRun) restartKeyd() {
	s.keyd = must(s.StartKeyd(s.t.Context(), testbed.Config{"lease": "1s"}))(s.t)
	eventually(s.t, s.keyd.Name, func() error { return testbed.Probe(s.t.Context(), s.keyd.Admin()+"/readyz") })
}

func (s *killRun) killFront() {
	s.end(s.front, syscall.SIGKILL, -1)
	s.start()
}

// terminateAuthzd starts the successor first, which takes over the socket.
func (s *killRun) terminateAuthzd() {
	old := s.front
	s.start()
	s.end(old, syscall.SIGTERM, 0)
}

// terminateEnvoy ends Envoy, which deregisters its sidecar.
func (s *killRun) terminateEnvoy() {
	s.end(s.front, syscall.SIGTERM, 0)
	if all := must(s.Operators.Sidecars(s.t.Context()))(s.t).Items; len(all) != 0 {
		s.t.Errorf("sidecars after the end of Envoy: %+v", all)
	}
	s.start()
}

func (l *load) String() string {
	return fmt.Sprintf("%d checks (%d allowed, %d denied, %d with 503, %d unanswered), %d changes acknowledged, %d rejected, %d with unknown outcome",
		l.checked.Load(), l.allowed.Load(), l.denied.Load(), l.unavailable.Load(), l.unanswered.Load(),
		l.acknowledged.Load(), l.rejected.Load(), l.uncertain.Load())
}
