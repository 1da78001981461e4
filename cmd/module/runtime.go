//go:build cgo

package main

import (
	"os"
	"runtime"

	"github.com/phantomrouter/phantom-authz/pkg/daemon"
)

// spareProcs is how many goroutines of our own may run while every worker of Envoy is in a check. An
// Envoy has as many workers as processors by default, and one that calls Go waits until a processor of
// Go's scheduler is free. With too few, a check waits for the garbage collector, and the scheduler's
// monitor takes the processor from a worker between two checks. More cost memory.
const spareProcs = 2

// tuneRuntime adapts Go's runtime to a process whose threads are Envoy's. Variables in the environment
// take precedence.
func tuneRuntime() {
	daemon.KeepHeadroom()
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + spareProcs)
	}
}
