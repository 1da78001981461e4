//go:build unix && !linux

package main

import "syscall"

// attributes of a part's process: a group of its own, so that Ctrl-C reaches the
// demo alone, which stops the parts in their order.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
