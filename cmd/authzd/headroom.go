package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// headroom is how many bytes of garbage gather before a collection, beyond as many as
// are in use. While a collection is under way checks wait for it, many milliseconds if
// there is one processor. Go's own measure is what is in use alone: with a small cache
// that is several collections a second, in a flood enough of them to be what the
// 99th percentile of all checks consists of.
const headroom = 64 << 20

// keepHeadroom sets GOGC anew after each collection. GOMEMLIMIT is held all the same,
// and who sets GOGC in the environment has his way.
func keepHeadroom() {
	if _, set := os.LookupEnv("GOGC"); !set {
		afterCollection(struct{}{})
	}
}

// afterCollection is called again once an object has been collected that nobody
// refers to: after the next collection. The object has 16 bytes, since smaller ones
// share a block with others and live as long as these.
func afterCollection(struct{}) {
	const (
		usual = 100     // percent of what is in use
		least = 4 << 20 // what GOGC takes for in use if it is less
	)
	debug.SetGCPercent(usual + usual*headroom/max(least, inUse()))
	runtime.AddCleanup(new([16]byte), afterCollection, struct{}{})
}

// inUse is what GOGC is a percentage of, in bytes.
func inUse() (bytes int) {
	parts := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}
	metrics.Read(parts)
	for _, part := range parts {
		bytes += int(part.Value.Uint64())
	}
	return bytes
}
