//go:build !linux

package postgres

import (
	"syscall"
	"time"
)

// setUserTimeout does nothing: the kernel has no such option.
func setUserTimeout(syscall.RawConn, time.Duration) error { return nil }
