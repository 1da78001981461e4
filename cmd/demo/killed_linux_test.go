package main

import (
	"syscall"
	"testing"
)

// TestKilledDemoLeavesNoProcess: the kernel kills the programs of a demo that is killed, and the next demo starts despite
// the files that are left.
func TestKilledDemoLeavesNoProcess(t *testing.T) {
	c, port := newClone(t), freePort(t)
	d := c.up(t, port)
	key := d.env["PHANTOM_CHAT_KEY"]
	d.Kill()
	d.gone(t)
	again := c.up(t, port)
	if again.env["PHANTOM_CHAT_KEY"] == key {
		t.Error("the second demo has the keys of the first")
	}
	again.stop(t, syscall.SIGINT)
	again.gone(t)
}
