package daemon

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
)

// metric returns a value of runtime/metrics.
func metric(name string) int {
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
	KeepHeadroom()
	if n := metric(percent); n != 70 {
		t.Errorf("GOGC is %d, want 70 of the environment", n)
	}

	if err := os.Unsetenv("GOGC"); err != nil { // t.Setenv restores it
		t.Fatal(err)
	}
	runtime.GC() // collect garbage of other tests
	KeepHeadroom()
	check := func() {
		t.Helper()
		// The goal is about twice what is in use, and the headroom.
		least, most := inUse()+headroom, 2*inUse()+headroom+headroom/4
		if n := metric(goal); n < least || n > most {
			t.Errorf("goal is %d bytes, want %d to %d", n, least, most)
		}
	}
	check()
	// The headroom stays the same when much more is in use.
	small := metric(percent)
	much := make([]byte, 2*headroom)
	for range 100 {
		if runtime.GC(); metric(percent) < small/2 {
			break
		}
	}
	check()
	runtime.KeepAlive(much)
}
