//go:build !linux

package envoy_test

import (
	"syscall"
	"testing"
)

func diesWithUs() *syscall.SysProcAttr { return nil }

// peakMemory and keepaliveTimers are known only on Linux.
func (p *process) peakMemory(*testing.T) int { return 0 }

func keepaliveTimers(*testing.T, int) (running, all int) { return 1, 1 }
