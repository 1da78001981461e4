package keycache

import (
	"slices"
	"time"
)

// Admission limits the look-ups of digests that are not cached.
type Admission struct {
	PerSecond int // sustained rate
	Burst     int // size of the token bucket
}

const (
	// admitWait is how long a look-up waits for a token. Smaller refuses good keys in a short
	// burst; larger uses more of the check's deadline and more memory in a flood.
	admitWait = 100 * time.Millisecond
	// admitSpread bounds the wait beyond admitWait if many look-ups wait. Clients that are refused
	// at the same moment retry at the same moment. Smaller makes such bursts denser.
	admitSpread = 50 * time.Millisecond
	// admitGap is the time between two refusals within admitSpread. Larger spreads fewer of them.
	admitGap = 50 * time.Microsecond
	// maxWaiting bounds the look-ups that wait. Larger uses more memory in a flood; smaller
	// refuses more of them without a wait.
	maxWaiting = 10_000
	// limiterTick is the resolution of the limiter's timer. Smaller uses more processor time in a
	// flood; larger admits and refuses in larger groups.
	limiterTick = time.Millisecond
)

// limiter is a token bucket with a bounded queue. Tokens are held until they are refunded or
// consumed: a consumed token is returned by time, at the configured rate. It has no clock, timer
// or lock; the caller has them.
//
// The waiters share one timer. A goroutine and a timer for each would double the garbage of a
// flood, which delays the checks of known keys.
type limiter[W comparable] struct {
	burst    int
	interval time.Duration // between two tokens that time returns
	free     int           // tokens in the bucket
	held     int           // acquired tokens, until they are refunded or consumed
	since    time.Time     // up to here time has returned tokens; set if any are missing
	queue    []waiter[W]   // by deadline
}

type waiter[W comparable] struct {
	who      W
	deadline time.Time
}

func newLimiter[W comparable](a Admission) *limiter[W] {
	l := &limiter[W]{}
	l.configure(a, time.Time{})
	l.free = a.Burst
	return l
}

// configure sets rate and burst. It adds no token: time does.
func (l *limiter[W]) configure(a Admission, now time.Time) {
	if l.missing() == 0 {
		l.since = now
	}
	l.burst, l.interval = a.Burst, time.Second/time.Duration(a.PerSecond)
	l.free = min(l.free, max(0, l.burst-l.held))
}

// missing counts the tokens that time has to return.
func (l *limiter[W]) missing() int { return max(0, l.burst-l.free-l.held) }

// acquire queues w for a token, or reports false if too many wait. The next advance decides.
func (l *limiter[W]) acquire(w W, now time.Time) bool {
	n := len(l.queue)
	if n >= maxWaiting {
		return false
	}
	deadline := now.Add(admitWait)
	if n > 0 {
		next := l.queue[n-1].deadline.Add(admitGap)
		deadline = deadline.Add(min(max(0, next.Sub(deadline)), admitSpread))
	}
	l.queue = append(l.queue, waiter[W]{w, deadline})
	return true
}

// remove takes w out of the queue.
func (l *limiter[W]) remove(w W) {
	l.queue = slices.DeleteFunc(l.queue, func(q waiter[W]) bool { return q.who == w })
}

// refund puts a held token back into the bucket.
func (l *limiter[W]) refund() {
	l.held--
	if l.free+l.held < l.burst {
		l.free++
	}
}

// consume has time return a held token.
func (l *limiter[W]) consume(now time.Time) {
	if l.missing() == 0 {
		l.since = now
	}
	l.held--
}

// advance returns the waiters that have a token at now, those whose wait is over, and when to call
// it next: never if that is zero.
func (l *limiter[W]) advance(now time.Time) (admit, refuse []W, next time.Time) {
	if n := min(l.missing(), int(now.Sub(l.since)/l.interval)); n > 0 {
		l.free += n
		l.since = l.since.Add(time.Duration(n) * l.interval)
	}
	for l.free > 0 && len(l.queue) > 0 {
		l.free--
		l.held++
		admit = append(admit, l.pop())
	}
	for len(l.queue) > 0 && l.queue[0].deadline.Before(now.Add(limiterTick)) {
		refuse = append(refuse, l.pop())
	}
	if len(l.queue) > 0 {
		next = l.queue[0].deadline
	}
	if refill := l.since.Add(max(limiterTick, l.interval)); l.missing() > 0 && (next.IsZero() || refill.Before(next)) {
		next = refill
	}
	return admit, refuse, next
}

func (l *limiter[W]) pop() W {
	first := l.queue[0].who
	l.queue[0] = waiter[W]{} // the array keeps no reference to it
	l.queue = l.queue[1:]
	return first
}
