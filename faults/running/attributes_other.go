//go:build !linux

package running

import "syscall"

func attributes() *syscall.SysProcAttr { return nil }
