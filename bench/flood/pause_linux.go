package main

import (
	"errors"
	"syscall"
	"time"
)

// pause waits on the system's own timer: Go's may come a millisecond late.
func pause(d time.Duration) {
	if d <= 0 {
		return
	}
	rest := syscall.NsecToTimespec(d.Nanoseconds())
	for errors.Is(syscall.Nanosleep(&rest, &rest), syscall.EINTR) {
	}
}
