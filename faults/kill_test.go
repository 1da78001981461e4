package faults_test

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// storm is one way of ending a program again and again under load.
type storm struct {
	name   string
	stale  time.Duration // the sidecar's max_stale
	limit  time.Duration // of one look-up
	strict promise
	once   func(*stormy) // ends the program once, and starts another
}

// stormy is a storm at work.
type stormy struct {
	*site
	t      *testing.T
	storm  storm
	load   *load
	authzd *testbed.Process
}

// TestKills ends both programs by both signals under load, again and again: no wrong
// answer, no acknowledged change lost, nothing dropped by SIGTERM.
func TestKills(t *testing.T) {
	storms := []storm{
		// A sidecar without a key API goes on with what it knows.
		{"keyd killed", time.Minute, 400 * time.Millisecond, promise{known: true}, (*stormy).killKeyd},
		{"keyd terminated", time.Minute, 400 * time.Millisecond, promise{known: true, changes: true}, (*stormy).terminateKeyd},
		// What a killed sidecar had cached counts until its stale time is over.
		{"authzd killed", 2 * time.Second, 400 * time.Millisecond, promise{}, (*stormy).killAuthzd},
		// Its successor learns in time, however slow the machine is.
		{"authzd terminated", 2 * time.Second, 20 * time.Second, promise{known: true, all: true, changes: true}, (*stormy).takeOver},
	}
	var all sync.WaitGroup
	for _, one := range storms {
		all.Go(func() {
			t.Run(one.name, func(t *testing.T) {
				s := &stormy{t: t, storm: one, site: newSite(t, testbed.Config{"lease": "1s"})}
				s.run()
			})
		})
	}
	all.Wait()
}

const stormSidecar = "sidecar"

func (s *stormy) start() *testbed.Process {
	s.t.Helper()
	p := s.site.authzd(stormSidecar, testbed.Config{
		"key_api": testbed.Config{"url": "unix://" + s.Socket("sidecars"), "token_file": "key-api.token", "timeout": milliseconds(s.storm.limit)},
		"cache":   testbed.Config{"confirm_after": "500ms", "max_stale": milliseconds(s.storm.stale)},
	})
	eventually(s.t, p.Name, func() error { return ready(s.t, p) })
	return p
}

// ready tells whether the key API has answered a sidecar, or a keyd's store keyd.
func ready(t *testing.T, p *testbed.Process) error {
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.Admin()+"/readyz", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}

func (s *stormy) run() {
	s.authzd = s.start()
	s.load = newLoad(s.site, s.t, stormSidecar, s.storm.strict)
	stop := s.load.start()
	for range killsOfEach {
		s.load.passes(40, 4)
		s.storm.once(s)
		s.load.settled()
	}
	s.load.passes(40, 4)
	stop()
	s.load.audit()
	s.t.Logf("%d times: %s", killsOfEach, s.load)
}

func (s *stormy) end(p *testbed.Process, by syscall.Signal, want int) {
	s.t.Helper()
	if code, err := p.Stop(by); err != nil || code != want {
		s.t.Errorf("%s ended with %d, %v", p.Name, code, err)
	}
}

func (s *stormy) killKeyd() {
	s.end(s.keyd, syscall.SIGKILL, -1)
	s.restartKeyd()
}

func (s *stormy) terminateKeyd() {
	s.end(s.keyd, syscall.SIGTERM, 0)
	s.restartKeyd()
}

func (s *stormy) restartKeyd() {
	s.keyd = must(s.StartKeyd(s.t.Context(), testbed.Config{"lease": "1s"}))(s.t)
	eventually(s.t, s.keyd.Name, func() error { return ready(s.t, s.keyd) })
}

func (s *stormy) killAuthzd() {
	s.end(s.authzd, syscall.SIGKILL, -1)
	s.authzd = s.start()
}

// takeOver starts the successor first, which takes the socket.
func (s *stormy) takeOver() {
	old := s.authzd
	s.authzd = s.start()
	s.end(old, syscall.SIGTERM, 0)
}

func (l *load) String() string {
	return fmt.Sprintf("%d checks (%d allowed, %d denied, %d times 503, %d times no answer), %d changes acknowledged, %d refused, %d of unknown outcome",
		l.checked.Load(), l.allowed.Load(), l.denied.Load(), l.unavailable.Load(), l.unanswered.Load(),
		l.acknowledged.Load(), l.refused.Load(), l.uncertain.Load())
}
