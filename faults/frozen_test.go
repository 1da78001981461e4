package faults_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

// TestFrozenSidecar: a sidecar stands still while a key is revoked. The change is
// called effective when that one's time is over and not before, a restart of keyd
// forgets nothing of it, and the sidecar lets nobody in when it goes on.
func TestFrozenSidecar(t *testing.T) {
	s := newSite(t, testbed.Config{"lease": "1s"})
	way := newRoad(t, s)
	cache := testbed.Config{"confirm_after": "500ms", "max_stale": "6s"}
	frozen := s.authzd("frozen", testbed.Config{
		"cache":   cache,
		"key_api": testbed.Config{"url": way.url, "token_file": "key-api.token"},
	})
	name := s.sidecars()[0].Name
	s.authzd("awake", testbed.Config{"cache": cache})
	key, other := s.mint(), s.mint()
	toFrozen, toAwake := s.checks("frozen"), s.checks("awake")
	for _, checks := range []*testbed.CheckClient{toFrozen, toAwake} {
		askHot(t, checks, []credential.Secret{key.Secret, other.Secret})
	}

	signal(t, frozen, syscall.SIGSTOP)
	change := *must(s.Operators.Do(t.Context(), operatorapi.RevokeKey(key.ID)))(t).Change
	if change.Effective || !slices.Contains(change.WaitingFor, name) {
		t.Fatalf("with a frozen sidecar: %+v", change)
	}
	eventually(t, "the other sidecar acknowledges", func() error {
		return waitsFor(s.progress(change.Revision), name)
	})
	by := s.progress(change.Revision).EffectiveBy

	// Whoever waits for it is told where it stands when keyd stops.
	s.drainWhileWaiting(change.Revision)
	s.keyd = must(s.StartKeyd(t.Context(), testbed.Config{"lease": "1s"}))(t)
	asked := time.Now()
	after := s.progress(change.Revision)
	switch {
	case after.Effective && by != nil && asked.Before(*by):
		t.Errorf("effective after a restart of keyd and before %v: %+v", by, after)
	case !after.Effective && (waitsFor(after, name) != nil || by == nil || !after.EffectiveBy.Equal(*by)):
		t.Errorf("before a restart of keyd it was effective by %v, now: %+v", by, after)
	}

	s.isEffective(change.Revision)
	if by == nil || time.Now().Before(*by) {
		t.Errorf("effective before %v", by)
	}
	// It must not need the key API to know that its time is over.
	outage.begin(t, way)
	s.wakes(frozen, toFrozen, key)
	outage.end(t, way)
	eventually(t, "the sidecar works again", func() error { return metricIs(t, frozen, synced, 1) })
	askHot(t, toFrozen, []credential.Secret{other.Secret})
	for _, checks := range []*testbed.CheckClient{toFrozen, toAwake} {
		if got, err := checks.Check(t.Context(), key.Secret); err != nil || got != revoked {
			t.Errorf("the revoked key: %v, %v", got, err)
		}
	}
}

// wakes sends checks of a dead key to a frozen sidecar and then lets it go on.
func (s *site) wakes(frozen *testbed.Process, checks *testbed.CheckClient, dead testbed.Key) {
	s.t.Helper()
	var asking sync.WaitGroup
	for i := range 200 {
		if i == 100 {
			signal(s.t, frozen, syscall.SIGCONT)
		}
		asking.Go(func() {
			got, err := checks.Check(s.t.Context(), dead.Secret, grpc.WaitForReady(true))
			if err != nil || got != revoked && got != unavailable {
				s.t.Errorf("a sidecar that was frozen, about a key that is dead everywhere: %v, %v", got, err)
			}
		})
	}
	asking.Wait()
}

// drainWhileWaiting stops keyd while somebody waits for a change.
func (s *site) drainWhileWaiting(revision int64) {
	s.t.Helper()
	answered := make(chan error, 1)
	go func() {
		answer, err := s.Operators.Do(s.t.Context(), operatorapi.Revision(revision).Waiting(operatorapi.MaxWait))
		if err == nil && answer.Change.Effective {
			err = fmt.Errorf("%+v", answer.Change)
		}
		answered <- err
	}()
	eventually(s.t, "the request has arrived", func() error {
		stacks, err := testbed.Get(s.t.Context(), s.keyd.Admin()+"/debug/pprof/goroutine?debug=1")
		if err == nil && !strings.Contains(string(stacks), "keyserver.(*Server).reached") {
			err = errors.New("nobody waits")
		}
		return err
	})
	if code, err := s.keyd.Stop(syscall.SIGTERM); err != nil || code != 0 {
		s.t.Errorf("keyd ended with %d, %v", code, err)
	}
	if err := <-answered; err != nil {
		s.t.Errorf("a wait was cut off: %v", err)
	}
}

func signal(t testing.TB, p *testbed.Process, s syscall.Signal) {
	t.Helper()
	if err := p.Signal(s); err != nil {
		t.Fatal(err)
	}
}

func (s *site) sidecars() []operatorapi.Sidecar {
	s.t.Helper()
	var list []operatorapi.Sidecar
	eventually(s.t, "a sidecar is on record", func() error {
		all, err := s.Operators.Sidecars(s.t.Context())
		if list = all.Items; err == nil && len(list) == 0 {
			err = fmt.Errorf("there is none")
		}
		return err
	})
	return list
}

// isEffective waits until the change is effective.
func (s *site) isEffective(revision int64) {
	s.t.Helper()
	eventually(s.t, "effective", func() error {
		answer, err := s.Operators.Do(s.t.Context(), operatorapi.Revision(revision).Waiting(operatorapi.MaxWait))
		if err == nil && !answer.Change.Effective {
			err = fmt.Errorf("%+v", answer.Change)
		}
		return err
	})
}

// progress tells how far a change has come.
func (s *site) progress(revision int64) operatorapi.Change {
	s.t.Helper()
	return *must(s.Operators.Do(s.t.Context(), operatorapi.Revision(revision)))(s.t).Change
}

// waitsFor tells whether a change waits for one sidecar alone.
func waitsFor(c operatorapi.Change, name string) error {
	if c.Effective || !slices.Equal(c.WaitingFor, []string{name}) {
		return fmt.Errorf("%+v, want it to wait for %s", c, name)
	}
	return nil
}
