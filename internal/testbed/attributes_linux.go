package testbed

import "syscall"

// attributes creates a process group, so that Ctrl-C reaches only the parent, which stops its processes in order. The
// kernel kills the process when the thread that started it ends, so a killed parent leaves no process.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
