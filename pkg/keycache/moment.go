package keycache

import (
	"math"
	"time"
)

// moment is a time by two clocks, in nanoseconds. Unlike time.Time it contains no pointer, and the
// times of an entry are a comparison of integers.
type moment struct {
	wall int64 // since 1970
	mono int64 // since origin, by the monotonic clock
}

var origin = time.Now()

func momentOf(t time.Time) moment { return moment{wall: t.UnixNano(), mono: int64(t.Sub(origin))} }

// never is before every time by the monotonic clock.
const never = math.MinInt64 / 2

func (m moment) isZero() bool { return m == moment{} }

// elapsed is the time from a moment until now, by the monotonic or the wall clock, whichever is
// longer. Linux's monotonic clock stops while a machine is suspended, and the wall clock may
// be set. Too long a time only ends trust early.
func elapsed(since, now moment) time.Duration {
	return time.Duration(max(now.mono-since.mono, now.wall-since.wall))
}

// leastElapsed is the shorter of both times.
func leastElapsed(since, now moment) time.Duration {
	return time.Duration(min(now.mono-since.mono, now.wall-since.wall))
}
