package testbed

import "syscall"

// attributes put a process into a process group of its own, so that Ctrl-C reaches its parent only, which stops it in
// its turn. The kernel kills it when the thread that started it ends, so a parent that is killed leaves no process
// behind.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
