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

// While a sidecar is stopped a key is revoked. The change is effective once the lease and the stale time of that sidecar are over,
// not before, also if keyd restarts. The sidecar then denies the key.
func TestFrozenSidecar(t *testing.T) { forEachFront(t, testFrozenSidecar) }

func testFrozenSidecar(t *testing.T, through front) {
	s := newFixture(t, testbed.Config{"lease": "1s"})
	rt := newRoute(t, s)
	cache := testbed.Config{"confirm_after": "500ms", "max_stale": "6s"}
	frozen, toFrozen := through.start(s, t, "frozen", testbed.Config{
		"cache":   cache,
		"key_api": testbed.Config{"url": rt.url, "token_file": "key-api.token"},
	})
	name := s.sidecars()[0].Name
	_, toAwake := through.start(s, t, "awake", testbed.Config{"cache": cache})
	key, other := s.mint(), s.mint()
	for _, checks := range []checker{toFrozen, toAwake} {
		awaitAllowed(t, checks, []credential.Secret{key.Secret, other.Secret})
	}

	signal(t, frozen, syscall.SIGSTOP)
	change := *must(s.Operators.Do(t.Context(), operatorapi.RevokeKey(key.ID)))(t).Change
	if change.Effective || !slices.Contains(change.WaitingFor, name) {
		t.Fatalf("with a stopped sidecar: %+v", change)
	}
	eventually(t, "acknowledgement of the other sidecar", func() error {
		return waitsFor(s.progress(change.Revision), name)
	})
	by := s.progress(change.Revision).EffectiveBy

	s.drainWhileWaiting(change.Revision)
	s.keyd = must(s.StartKeyd(t.Context(), testbed.Config{"lease": "1s"}))(t)
	requested := time.Now()
	after := s.progress(change.Revision)
	switch {
	case after.Effective && by != nil && requested.Before(*by):
		t.Errorf("effective before %v after a restart of keyd: %+v", by, after)
	case !after.Effective && (waitsFor(after, name) != nil || by == nil || !after.EffectiveBy.Equal(*by)):
		t.Errorf("effective by %v before a restart of keyd, after it: %+v", by, after)
	}

	s.awaitEffective(change.Revision)
	if by == nil || time.Now().Before(*by) {
		t.Errorf("effective before %v", by)
	}
	// The sidecar must notice without the key API that its lease has expired.
	outage.begin(t, rt)
	s.continueWithChecks(frozen, toFrozen, key)
	outage.end(t, rt)
	eventually(t, "lease", func() error { return metricIs(t, frozen, synced, 1) })
	awaitAllowed(t, toFrozen, []credential.Secret{other.Secret})
	for _, checks := range []checker{toFrozen, toAwake} {
		if got, err := checks.Check(t.Context(), key.Secret); err != nil || got != revoked {
			t.Errorf("revoked key: %v, %v", got, err)
		}
	}
}

// continueWithChecks continues a stopped sidecar while checks of a revoked key wait.
func (s *fixture) continueWithChecks(frozen *testbed.Process, checks checker, key testbed.Key) {
	s.t.Helper()
	var pending sync.WaitGroup
	for i := range 200 {
		if i == 100 {
			signal(s.t, frozen, syscall.SIGCONT)
		}
		pending.Go(func() {
			got, err := checks.Check(s.t.Context(), key.Secret, grpc.WaitForReady(true))
			if err != nil || got != revoked && got != unavailable {
				s.t.Errorf("check of the revoked key: %v, %v", got, err)
			}
		})
	}
	pending.Wait()
}

// drainWhileWaiting stops keyd during a request that waits for a change. It must be answered.
func (s *fixture) drainWhileWaiting(revision int64) {
	s.t.Helper()
	answered := make(chan error, 1)
	go func() {
		answer, err := s.Operators.Do(s.t.Context(), operatorapi.Revision(revision).Waiting(operatorapi.MaxWait))
		if err == nil && answer.Change.Effective {
			err = fmt.Errorf("%+v", answer.Change)
		}
		answered <- err
	}()
	eventually(s.t, "request", func() error {
		stacks, err := testbed.Get(s.t.Context(), s.keyd.Admin()+"/debug/pprof/goroutine?debug=1")
		if err == nil && !strings.Contains(string(stacks), "keyserver.(*Server).getRevision") {
			err = errors.New("not received")
		}
		return err
	})
	if code, err := s.keyd.Stop(syscall.SIGTERM); err != nil || code != 0 {
		s.t.Errorf("keyd: exit code %d, %v", code, err)
	}
	if err := <-answered; err != nil {
		s.t.Errorf("waiting request: %v", err)
	}
}

func signal(t testing.TB, p *testbed.Process, s syscall.Signal) {
	t.Helper()
	if err := p.Signal(s); err != nil {
		t.Fatal(err)
	}
}

func (s *fixture) sidecars() []operatorapi.Sidecar {
	s.t.Helper()
	var list []operatorapi.Sidecar
	eventually(s.t, "sidecar", func() error {
		all, err := s.Operators.Sidecars(s.t.Context())
		if list = all.Items; err == nil && len(list) == 0 {
			err = errors.New("none is on record")
		}
		return err
	})
	return list
}

// awaitEffective waits until the change is effective.
func (s *fixture) awaitEffective(revision int64) {
	s.t.Helper()
	eventually(s.t, "effective", func() error {
		answer, err := s.Operators.Do(s.t.Context(), operatorapi.Revision(revision).Waiting(operatorapi.MaxWait))
		if err == nil && !answer.Change.Effective {
			err = fmt.Errorf("%+v", answer.Change)
		}
		return err
	})
}

// progress returns the state of a change.
func (s *fixture) progress(revision int64) operatorapi.Change {
	s.t.Helper()
	return *must(s.Operators.Do(s.t.Context(), operatorapi.Revision(revision)))(s.t).Change
}

// waitsFor returns an error unless a change waits for one sidecar only.
func waitsFor(c operatorapi.Change, name string) error {
	if c.Effective || !slices.Equal(c.WaitingFor, []string{name}) {
		return fmt.Errorf("%+v, want it to wait for %s", c, name)
	}
	return nil
}
