package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
)

func reads(name string) int {
	sample := []metrics.Sample{{Name: name}}
	metrics.Read(sample)
	return int(sample[0].Value.Uint64())
}

const (
	percent = "/gc/gogc:percent"
	goal    = "/gc/heap/goal:bytes"
)

func TestHeadroom(t *testing.T) {
	t.Setenv("GOGC", "70")
	debug.SetGCPercent(70)
	t.Cleanup(func() { debug.SetGCPercent(100) })
	keepHeadroom()
	if n := reads(percent); n != 70 {
		t.Errorf("GOGC is set to 70, and then to %d", n)
	}

	if err := os.Unsetenv("GOGC"); err != nil { // t.Setenv puts it back
		t.Fatal(err)
	}
	runtime.GC() // what other tests left
	keepHeadroom()
	check := func() {
		t.Helper()
		// The goal is about what is in use and as much again and the headroom.
		least, most := inUse()+headroom, 2*inUse()+headroom+headroom/4
		if n := reads(goal); n < least || n > most {
			t.Errorf("collects at %d bytes, want %d to %d", n, least, most)
		}
	}
	check()
	// Much more in use, and the room is the same: it is measured anew after a collection.
	small := reads(percent)
	much := make([]byte, 2*headroom)
	for range 100 {
		if runtime.GC(); reads(percent) < small/2 {
			break
		}
	}
	check()
	runtime.KeepAlive(much)
}
