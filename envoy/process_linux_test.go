package envoy_test

import "syscall"

// diesWithUs: a test binary that is killed, or panics, leaves no process behind.
func diesWithUs() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
