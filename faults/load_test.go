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

// promise is what a load holds beyond that no answer is wrong.
type promise struct {
	known   bool // keys that the sidecar knows are always let in
	all     bool // every check is answered, and none with 503
	changes bool // a change that was not acknowledged was not made
}

// keyState is what is known of a key's fate.
type keyState int

const (
	good      keyState = iota
	leaving            // its revocation was sent: both answers are right
	revokedAt          // its revocation was acknowledged; wrong once it is dead
)

// held is a key with its fate.
type held struct {
	testbed.Key
	mu       sync.Mutex
	state    keyState
	revision int64
	dead     bool      // a change's answer said that it is effective
	deadBy   time.Time // or said by when it will be
}

func (h *held) change(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

// fate returns the state, and whether nobody may be let in any more.
func (h *held) fate() (state keyState, dead bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state, h.dead || h.state == revokedAt && !h.deadBy.IsZero() && time.Now().After(h.deadBy)
}

// load mints, revokes and checks all the time, and knows what each answer may be.
type load struct {
	*site
	t       *testing.T
	promise promise
	checks  *testbed.CheckClient
	known   []*held // minted at first, known to the sidecar, never changed

	following sync.WaitGroup // of revocations, until they are effective

	mu   sync.Mutex
	keys []*held

	checked, allowed, denied, unavailable, unanswered atomic.Int64
	acknowledged, refused, uncertain                  atomic.Int64
}

func newLoad(s *site, t *testing.T, sidecar string, p promise) *load {
	t.Helper()
	l := &load{site: s, t: t, promise: p, checks: s.checks(sidecar)}
	for range 10 {
		l.known = append(l.known, &held{Key: s.mint()})
	}
	l.settled()
	return l
}

// settled waits until all known keys are let in, and the sidecar holds a lease again.
func (l *load) settled() {
	l.t.Helper()
	for _, h := range l.known {
		askHot(l.t, l.checks, []credential.Secret{h.Secret})
	}
}

// start begins; what it returns ends it.
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
	each(2*time.Millisecond, func(context.Context) { l.checkKnown() })
	return func() { cancel(); working.Wait(); l.following.Wait() }
}

// passes waits until so many more checks have been answered and changes acknowledged.
func (l *load) passes(checks, changes int64) {
	l.t.Helper()
	checks += l.allowed.Load() + l.denied.Load()
	changes += l.acknowledged.Load()
	eventually(l.t, "the load goes on", func() error {
		if l.allowed.Load()+l.denied.Load() < checks || l.acknowledged.Load() < changes {
			return fmt.Errorf("it stands: %s", l)
		}
		return nil
	})
}

// mutate mints a key, and revokes another.
func (l *load) mutate(ctx context.Context) {
	minted, err := l.MintKey(context.Background(), l.account)
	if l.counted(err) {
		l.mu.Lock()
		l.keys = append(l.keys, &held{Key: minted})
		l.mu.Unlock()
	}
	h := l.pick()
	if h == nil {
		return
	}
	if state, _ := h.fate(); state != good {
		return
	}
	h.change(func() { h.state = leaving })
	answer, err := l.Operators.Do(context.Background(), operatorapi.RevokeKey(h.ID))
	if !l.counted(err) {
		return
	}
	h.change(func() {
		h.state, h.revision, h.dead = revokedAt, answer.Change.Revision, answer.Change.Effective
		if by := answer.Change.EffectiveBy; by != nil {
			h.deadBy = *by
		}
	})
	l.following.Go(func() { l.follow(ctx, h) })
}

// follow asks until the key's revocation is effective.
func (l *load) follow(ctx context.Context, h *held) {
	for ctx.Err() == nil {
		answer, err := l.Operators.Do(ctx, operatorapi.Revision(h.revision).Waiting(time.Second))
		if err == nil && answer.Change.Effective {
			h.change(func() { h.dead = true })
			return
		}
		pause, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		<-pause.Done()
		cancel()
	}
}

// counted notes how a change went; true if it was acknowledged.
func (l *load) counted(err error) bool {
	var failed *operatorapi.Error
	switch {
	case err == nil:
		l.acknowledged.Add(1)
		return true
	case errors.As(err, &failed) && failed.OutcomeUnknown:
		l.uncertain.Add(1)
	default:
		l.refused.Add(1)
	}
	return false
}

// pick returns one of the newer keys.
func (l *load) pick() *held {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.keys) == 0 {
		return nil
	}
	const newer = 50
	from := max(0, len(l.keys)-newer)
	return l.keys[from+rand.IntN(len(l.keys)-from)]
}

// ask makes one check and counts it. Where every check must be answered it is given
// the time that a loaded machine may need.
func (l *load) ask(s credential.Secret) (testbed.Answer, bool) {
	limit := testbed.EnvoyTimeout
	if l.promise.all {
		limit = testbed.Patience
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	got, err := l.checks.Check(ctx, s, grpc.WaitForReady(true))
	l.checked.Add(1)
	switch {
	case err != nil:
		l.unanswered.Add(1)
		if l.promise.all {
			l.t.Errorf("a check was dropped: %v", err)
		}
		return unavailable, false // is what Envoy says then
	case got == allowed:
		l.allowed.Add(1)
	case got == unavailable:
		l.unavailable.Add(1)
		if l.promise.all {
			l.t.Errorf("a check was answered with %v", got)
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
	_, dead := h.fate()
	got, _ := l.ask(h.Secret)
	state, _ := h.fate()
	switch {
	case got == unavailable:
	case got == allowed && dead:
		l.t.Errorf("a revoked key was let in after its revocation was effective (%s)", h.ID)
	case got != allowed && (got != revoked || state == good):
		l.t.Errorf("a good key: %v", got)
	}
}

func (l *load) checkUnknown() {
	if got, _ := l.ask(l.UnknownKey()); got != unknown && got != unavailable && got != rateLimited {
		l.t.Errorf("an unknown key: %v", got)
	}
}

func (l *load) checkKnown() {
	h := l.known[rand.IntN(len(l.known))]
	got, answered := l.ask(h.Secret)
	if got == allowed || got == unavailable && !l.promise.known || !answered && !l.promise.all {
		return
	}
	l.t.Errorf("a known key: %v", got)
}

// audit looks whether all that was acknowledged is so.
func (l *load) audit() {
	l.t.Helper()
	for _, h := range l.keys {
		answer, err := l.Operators.Do(l.t.Context(), operatorapi.GetKey(h.ID))
		if err != nil {
			l.t.Errorf("a minted key is lost: %v", err)
			continue
		}
		state, _ := h.fate()
		if state == leaving && l.promise.changes {
			state = good
		} else if state == leaving {
			continue // both is right
		}
		want, row := "active", allowed
		if state == revokedAt {
			want, row = "revoked", revoked
		}
		if answer.Key.State != want {
			l.t.Errorf("key %s is %s, acknowledged was %s", h.ID, answer.Key.State, want)
		}
		eventually(l.t, h.ID, func() error {
			got, answered := l.ask(h.Secret)
			if !answered || got != row {
				_, dead := h.fate()
				if dead && got == allowed {
					l.t.Errorf("a revoked key is let in")
				}
				return fmt.Errorf("%v, want %v", got, row)
			}
			return nil
		})
	}
}
