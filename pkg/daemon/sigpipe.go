package daemon

import (
	"os"
	"os/signal"
	"syscall"
)

// surviveSIGPIPE keeps a write to a pipe whose reader has gone from ending the process,
// until the returned function is called. Package os/signal: without a Notify for
// SIGPIPE, such a write to stdout or stderr kills the program; with one, it returns
// EPIPE. (Ignore would do too, but programs that are started would inherit it.)
func surviveSIGPIPE() (restore func()) {
	received := make(chan os.Signal, 1) // nobody reads it: package signal drops what does not fit
	signal.Notify(received, syscall.SIGPIPE)
	return func() { signal.Stop(received) }
}
