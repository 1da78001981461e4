//go:build unix && !linux

package testbed

import "syscall"

// attributes creates a process group, so that Ctrl-C reaches only the parent, which stops its processes in order.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
