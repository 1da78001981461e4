package main

import (
	"syscall"
	"testing"
)

// TestKilledDemo: the kernel ends the parts of a demo that is killed, and what is
// left in its folder is no obstacle to the next.
func TestKilledDemo(t *testing.T) {
	c, port := newClone(t), freePort(t)
	d := c.up(t, port)
	key := d.env["PHANTOM_CHAT_KEY"]
	if err := d.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for range d.lines {
	}
	_ = d.Wait()
	d.gone(t)
	again := c.up(t, port)
	if again.env["PHANTOM_CHAT_KEY"] == key {
		t.Error("the second demo has the first one's keys")
	}
	again.stop(t, syscall.SIGINT)
	again.gone(t)
}
