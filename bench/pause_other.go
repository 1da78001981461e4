//go:build !linux

package bench

import "time"

// Pause sleeps.
func Pause(d time.Duration) { <-time.After(d) }
