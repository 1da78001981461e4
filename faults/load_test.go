package faults_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
)

// promise is what a load checks, besides that no answer is wrong.
type promise struct {
	cached  bool // cached keys are always allowed
	checks  bool // every check is answered, and none with 503
	changes bool // an unacknowledged change was not made
}

// keyState is the progress of a key's revocation.
type keyState int

const (
	good         keyState = iota
	revoking              // the request was sent: both answers are right
	acknowledged          // an allow is wrong once the revocation is effective
)

// trackedKey is a key with the progress of its revocation.
type trackedKey struct {
	testbed.Key
	mu          sync.Mutex
	state       keyState
	revision    int64
	effective   bool      // keyd has reported that the revocation is effective
	effectiveBy time.Time // from keyd; zero if unknown
}

// update calls f with the lock held.
func (h *trackedKey) update(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

// progress returns the state, and whether an allow is wrong.
func (h *trackedKey) progress() (state keyState, revoked bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state, h.effective || h.state == acknowledged && !h.effectiveBy.IsZero() && time.Now().After(h.effectiveBy)
}

// load mints, revokes and checks keys continuously, and compares every answer with the progress of the key.
type load struct {
	*fixture
	t       *testing.T
	promise promise
	checks  checker
	cached  []*trackedKey // never changed

	following sync.WaitGroup // of follow

	mu   sync.Mutex
	keys []*trackedKey

	checked, allowed, denied, unavailable, unanswered atomic.Int64
	acknowledged, rejected, uncertain                 atomic.Int64
}

func newLoad(s *fixture, t *testing.T, checks checker, p promise) *load {
	t.Helper()
	l := &load{fixture: s, t: t, promise: p, checks: checks}
	for range 10 {
		l.cached = append(l.cached, &trackedKey{Key: s.mint()})
	}
	l.awaitCached()
	return l
}

// awaitCached waits until all keys that are never changed are allowed.
func (l *load) awaitCached() {
	l.t.Helper()
	for _, h := range l.cached {
		awaitAllowed(l.t, l.checks, []credential.Secret{h.Secret})
	}
}

// start starts the load. It returns a function that stops it.
func (l *load) start() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	each := func(pace time.Duration, work func(context.Context)) {
		working.Go(func() {
			tick := time.NewTicker(pace)
			defer tick.Stop()
			for ctx.Err() == nil {
				work(ctx)
				<-tick.C
			}
		})
	}
	for range 2 {
		each(5*time.Millisecond, l.mutate)
	}
	for range 4 {
		each(time.Millisecond, l.checkOne)
	}
	each(5*time.Millisecond, func(context.Context) { l.checkUnknown() })
	each(2*time.Millisecond, func(context.Context) { l.checkCached() })
	return func() { cancel(); working.Wait(); l.following.Wait() }
}

// awaitProgress waits until the load has got more answers to checks and more acknowledgements.
func (l *load) awaitProgress(checks, changes int64) {
	l.t.Helper()
	checks += l.allowed.Load() + l.denied.Load()
	changes += l.acknowledged.Load()
	eventually(l.t, "progress", func() error {
		if l.allowed.Load()+l.denied.Load() < checks || l.acknowledged.Load() < changes {
			return fmt.Errorf("%s", l)
		}
		return nil
	})
}

// mutate mints a key, and revokes another.
func (l *load) mutate(ctx context.Context) {
	minted, err := l.MintKey(context.Background(), l.account)
	if l.counted(err) {
		l.mu.Lock()
		l.keys = append(l.keys, &trackedKey{Key: minted})
		l.mu.Unlock()
	}
	h := l.pick()
	if h == nil {
		return
	}
	if state, _ := h.progress(); state != good {
		return
	}
	h.update(func() { h.state = revoking })
	answer, err := l.Operators.Do(context.Background(), operatorapi.RevokeKey(h.ID))
	if !l.counted(err) {
		return
	}
	h.update(func() {
		h.state, h.revision, h.effective = acknowledged, answer.Change.Revision, answer.Change.Effective
		if by := answer.Change.EffectiveBy; by != nil {
			h.effectiveBy = *by
		}
	})
	l.following.Go(func() { l.follow(ctx, h) })
}

// follow waits until the revocation of the key is effective.
func (l *load) follow(ctx context.Context, h *trackedKey) {
	for ctx.Err() == nil {
		answer, err := l.Operators.Do(ctx, operatorapi.Revision(h.revision).Waiting(time.Second))
		if err == nil && answer.Change.Effective {
			h.update(func() { h.effective = true })
			return
		}
		<-time.After(20 * time.Millisecond)
	}
}

// counted counts the result of a change, and reports whether it was acknowledged.
func (l *load) counted(err error) bool {
	var failed *operatorapi.Error
	switch {
	case err == nil:
		l.acknowledged.Add(1)
		return true
	case errors.As(err, &failed) && failed.OutcomeUnknown:
		l.uncertain.Add(1)
	default:
		l.rejected.Add(1)
	}
	return false
}

// pick returns a random one of the latest keys.
func (l *load) pick() *trackedKey {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.keys) == 0 {
		return nil
	}
	const latest = 50
	from := max(0, len(l.keys)-latest)
	return l.keys[from+rand.IntN(len(l.keys)-from)]
}

// check sends one check and counts it. If every check must be answered, the timeout is long enough for a loaded machine.
func (l *load) check(s credential.Secret) (testbed.Answer, bool) {
	limit := testbed.EnvoyTimeout
	if l.promise.checks {
		limit = testbed.Patience
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	got, err := l.checks.Check(ctx, s, grpc.WaitForReady(true))
	l.checked.Add(1)
	switch {
	case err != nil:
		l.unanswered.Add(1)
		if l.promise.checks {
			l.t.Errorf("unanswered check: %v", err)
		}
		return unavailable, false // as Envoy answers
	case got == allowed:
		l.allowed.Add(1)
	case got == unavailable:
		l.unavailable.Add(1)
		if l.promise.checks {
			l.t.Errorf("check: %v", got)
		}
	default:
		l.denied.Add(1)
	}
	return got, true
}

func (l *load) checkOne(context.Context) {
	h := l.pick()
	if h == nil {
		return
	}
	_, isRevoked := h.progress()
	got, _ := l.check(h.Secret)
	state, _ := h.progress()
	switch {
	case got == unavailable:
	case got == allowed && isRevoked:
		l.t.Errorf("key %s was allowed after its effective revocation", h.ID)
	case got != allowed && (got != revoked || state == good):
		l.t.Errorf("good key: %v", got)
	}
}

func (l *load) checkUnknown() {
	if got, _ := l.check(l.UnknownKey()); got != unknown && got != unavailable && got != rateLimited {
		l.t.Errorf("unknown key: %v", got)
	}
}

func (l *load) checkCached() {
	h := l.cached[rand.IntN(len(l.cached))]
	got, answered := l.check(h.Secret)
	if got == allowed || got == unavailable && !l.promise.cached || !answered && !l.promise.checks {
		return
	}
	l.t.Errorf("cached key: %v", got)
}

// checkChanges compares all keys with the acknowledged changes.
func (l *load) checkChanges() {
	l.t.Helper()
	for _, h := range l.keys {
		answer, err := l.Operators.Do(l.t.Context(), operatorapi.GetKey(h.ID))
		if err != nil {
			l.t.Errorf("minted key is lost: %v", err)
			continue
		}
		state, _ := h.progress()
		if state == revoking && l.promise.changes {
			state = good
		} else if state == revoking {
			continue // both states are right
		}
		want, row := "active", allowed
		if state == acknowledged {
			want, row = "revoked", revoked
		}
		if answer.Key.State != want {
			l.t.Errorf("key %s is %s, want %s", h.ID, answer.Key.State, want)
		}
		eventually(l.t, h.ID, func() error {
			got, answered := l.check(h.Secret)
			if !answered || got != row {
				if _, isRevoked := h.progress(); isRevoked && got == allowed {
					l.t.Errorf("revoked key %s is allowed", h.ID)
				}
				return fmt.Errorf("%v, want %v", got, row)
			}
			return nil
		})
	}
}
