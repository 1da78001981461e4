package keycache

import (
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// Admission limits the look-ups of digests that are not cached.
type Admission struct {
	PerSecond int // in the long run
	Burst     int // at once
}

const (
	// admitWait is how long a look-up waits for its turn, and admitSpread how much longer
	// if many came before it at once: these are refused by admitApart one after the other. A
	// crowd that were refused at once would come again at once, and known keys would
	// wait behind all of it each time.
	admitWait   = 100 * time.Millisecond
	admitSpread = 50 * time.Millisecond
	admitApart  = 50 * time.Microsecond
	// maxWaiting bounds the look-ups that wait at once; more are refused without a wait.
	maxWaiting = 10_000
	// limiterTick bounds how often tokens are put back by time, and those refused whose
	// wait is over: the ones whose wait is over within it go together.
	limiterTick = time.Millisecond
)

// limiter is a token bucket whose tokens can be returned: a look-up that finds a credential in
// force, or that has no usable result, takes none in the end. So a cold start with many good
// keys is not a flood. A token that is consumed comes back by time.
//
// Those who wait stand in a queue and share one timer: a goroutine and a timer for
// each would double what a flood leaves to the garbage collector, and its work is what
// known keys wait for.
type limiter struct {
	cache    *Cache // whose mu guards what follows
	rate     float64
	free     int       // tokens
	consumed int       // tokens that time has yet to return
	since    time.Time // the time up to which it has

	waiting []turn // in the order in which they came, and will give up
	watched bool   // a timer is set for the first
}

// turn is a load's place in the queue.
type turn struct {
	load  *load
	until time.Time
}

func newLimiter(c *Cache, a Admission) *limiter {
	return &limiter{cache: c, rate: float64(a.PerSecond), free: a.Burst}
}

// take admits the load, at once or as soon as there is a token, or refuses it if there
// was none in time.
func (l *limiter) take(asked *load) {
	switch {
	case l.free > 0:
		l.free--
		l.admit(asked)
	case len(l.waiting) >= maxWaiting:
		l.refuse(asked)
	default:
		until := time.Now().Add(admitWait)
		if n := len(l.waiting); n > 0 {
			behind := l.waiting[n-1].until.Add(admitApart)
			until = until.Add(min(max(0, behind.Sub(until)), admitSpread))
		}
		l.waiting = append(l.waiting, turn{asked, until})
		if !l.watched {
			l.watch(admitWait)
		}
	}
}

func (l *limiter) admit(asked *load) {
	asked.token = l
	l.cache.enqueue(asked)
}

func (l *limiter) refuse(asked *load) {
	l.cache.finish(asked, sidecarapi.Result{}, credential.ErrRateLimited)
}

// next takes the first of the queue.
func (l *limiter) next() *load {
	first := l.waiting[0].load
	l.waiting[0] = turn{} // the array lives on
	l.waiting = l.waiting[1:]
	return first
}

// watch has those refused whose wait is over, from then on until nobody waits.
func (l *limiter) watch(after time.Duration) {
	l.watched = true
	time.AfterFunc(after, func() {
		l.cache.mu.Lock()
		defer l.cache.mu.Unlock()
		now := time.Now()
		for len(l.waiting) > 0 && l.waiting[0].until.Before(now.Add(limiterTick)) {
			l.refuse(l.next())
		}
		l.watched = false
		if len(l.waiting) > 0 {
			l.watch(l.waiting[0].until.Sub(now))
		}
	})
}

// refund returns a token at once, to the load that has waited longest.
func (l *limiter) refund() {
	if len(l.waiting) > 0 {
		l.admit(l.next())
		return
	}
	l.free++
}

// consume has time return a token.
func (l *limiter) consume() {
	l.consumed++
	if l.consumed == 1 {
		l.since = time.Now()
		l.schedule()
	}
}

func (l *limiter) schedule() {
	time.AfterFunc(max(limiterTick, time.Duration(float64(time.Second)/l.rate)), l.refill)
}

func (l *limiter) refill() {
	l.cache.mu.Lock()
	defer l.cache.mu.Unlock()
	n := min(l.consumed, int(time.Since(l.since).Seconds()*l.rate))
	l.since = l.since.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))
	l.consumed -= n
	for range n {
		l.refund()
	}
	if l.consumed > 0 {
		l.schedule()
	}
}
