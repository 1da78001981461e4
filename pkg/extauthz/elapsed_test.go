package extauthz

import (
	"testing"
	"time"
	"unsafe"
)

// suspended returns t with its monotonic clock set back by d, as if the machine had been suspended.
// Package time has no function for this.
func suspended(t time.Time, d time.Duration) time.Time {
	(*struct { // time.Time
		wall uint64
		ext  int64 // the monotonic clock in nanoseconds
		loc  *time.Location
	})(unsafe.Pointer(&t)).ext -= int64(d)
	return t
}

func TestElapsedIsTheLongerOfBothClocks(t *testing.T) {
	since := time.Now()
	for name, tt := range map[string]struct {
		now  time.Time
		want time.Duration
	}{
		"both clocks":             {since.Add(time.Second), time.Second},
		"suspended machine":       {suspended(since.Add(time.Hour), time.Hour-time.Second), time.Hour},
		"wall clock set forward":  {suspended(since.Add(3*time.Second), 2*time.Second), 3 * time.Second},
		"wall clock set back":     {suspended(since.Add(-time.Hour), -time.Hour-2*time.Second), 2 * time.Second},
		"no monotonic clock read": {since.Round(0).Add(time.Hour), time.Hour},
	} {
		if got := elapsed(since, tt.now); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}
