//go:build unix && !linux

package testbed

import "syscall"

// attributes put a process into a process group of its own, so that Ctrl-C reaches its parent only, which stops it in
// its turn.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
