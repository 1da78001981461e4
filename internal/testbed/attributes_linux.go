package testbed

import "syscall"

// attributes: whoever is killed or panics leaves no process behind.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
