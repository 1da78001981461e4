package daemon

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// headroom is the garbage in bytes that is collected later than with Go's default, which collects
// when as many bytes are garbage as are in use. Checks wait for a collection, many milliseconds with
// one processor. Smaller collects several times a second with a small cache, which dominates the 99th
// percentile of checks in a flood; larger costs memory.
const headroom = 64 << 20

// KeepHeadroom has the garbage collector run after 64 MiB more of garbage than by default, from now on
// and in the whole process. It adapts GOGC after each collection, because a fixed GOGC that collects a
// small cache as rarely would let a large one take many times its memory. GOMEMLIMIT still applies, and
// GOGC in the environment takes precedence.
//
// GOGC=400 in its place was no better (docs/performance.md, "What was tried and did not help").
//
// A program that shares its process with others may call it too. It must be called once.
func KeepHeadroom() {
	if _, set := os.LookupEnv("GOGC"); !set {
		afterCollection(struct{}{})
	}
}

// afterCollection sets GOGC and makes an unreferenced object, whose cleanup calls it again after the
// next collection. The object has 16 bytes because smaller ones share a block and live as long as
// others in it.
func afterCollection(struct{}) {
	const (
		usual = 100     // Go's default, in percent of the memory in use
		least = 4 << 20 // what GOGC counts as in use if it is less
	)
	debug.SetGCPercent(usual + usual*headroom/max(least, inUse()))
	runtime.AddCleanup(new([16]byte), afterCollection, struct{}{})
}

// inUse returns the bytes of which GOGC is a percentage.
func inUse() (bytes int) {
	parts := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}
	metrics.Read(parts)
	for _, part := range parts {
		bytes += int(part.Value.Uint64())
	}
	return bytes
}
