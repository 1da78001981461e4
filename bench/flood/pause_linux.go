package main

import (
	"errors"
	"syscall"
	"time"
)

// pause sleeps with a timer of the system: those of Go may be a millisecond late.
func pause(d time.Duration) {
	if d <= 0 {
		return
	}
	rest := syscall.NsecToTimespec(d.Nanoseconds())
	for errors.Is(syscall.Nanosleep(&rest, &rest), syscall.EINTR) {
	}
}
