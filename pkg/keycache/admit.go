package keycache

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// Admission limits the look-ups of digests that are not known to be good.
type Admission struct {
	PerSecond int // in the long run
	Burst     int // at once
}

const (
	// admitWait is how long a look-up waits for its turn.
	admitWait = 100 * time.Millisecond
	// maxWaiting bounds the look-ups that wait at once; more are refused without a wait.
	maxWaiting = 10_000
	// refillEvery bounds how often tokens are put back by time.
	refillEvery = time.Millisecond
)

// limiter is a token bucket whose tokens can be given back: a look-up that finds a
// credential, or that teaches nothing, costs none. So a cold start with many good
// keys is no flood. A token that is spent comes back by time.
type limiter struct {
	tokens  *semaphore.Weighted
	rate    float64
	waiting atomic.Int64

	mu    sync.Mutex
	spent int       // tokens that time has yet to put back
	since time.Time // the time up to which it has
}

func newLimiter(a Admission) *limiter {
	return &limiter{tokens: semaphore.NewWeighted(int64(a.Burst)), rate: float64(a.PerSecond)}
}

// take calls admitted, at once or from a goroutine of its own as soon as there is a
// token, with false if there was none in time.
func (l *limiter) take(admitted func(bool)) {
	if l.tokens.TryAcquire(1) {
		admitted(true)
		return
	}
	if l.waiting.Add(1) > maxWaiting {
		l.waiting.Add(-1)
		admitted(false)
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), admitWait)
		defer cancel()
		err := l.tokens.Acquire(ctx, 1)
		l.waiting.Add(-1)
		admitted(err == nil)
	}()
}

// giveBack returns a token at once.
func (l *limiter) giveBack() { l.tokens.Release(1) }

// spend lets time return a token.
func (l *limiter) spend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spent++
	if l.spent == 1 {
		l.since = time.Now()
		l.schedule()
	}
}

func (l *limiter) schedule() {
	time.AfterFunc(max(refillEvery, time.Duration(float64(time.Second)/l.rate)), l.refill)
}

func (l *limiter) refill() {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(l.spent, int(time.Since(l.since).Seconds()*l.rate))
	l.since = l.since.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))
	l.spent -= n
	l.tokens.Release(int64(n))
	if l.spent > 0 {
		l.schedule()
	}
}
