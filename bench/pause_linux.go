package bench

import (
	"errors"
	"syscall"
	"time"
)

// Pause sleeps with a timer of the system: those of Go may be a millisecond late. It blocks a thread.
func Pause(d time.Duration) {
	if d <= 0 {
		return
	}
	rest := syscall.NsecToTimespec(d.Nanoseconds())
	for errors.Is(syscall.Nanosleep(&rest, &rest), syscall.EINTR) {
	}
}
