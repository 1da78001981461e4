//go:build !linux

package envoy_test

import "syscall"

func diesWithUs() *syscall.SysProcAttr { return nil }
