package main

import "syscall"

// attributes of a part's process: a group of its own, so that Ctrl-C reaches the
// demo alone, which stops the parts in their order; and the kernel ends it when
// the demo ends in whatever way.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
