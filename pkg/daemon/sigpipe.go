package daemon

import (
	"os"
	"os/signal"
	"syscall"
)

// surviveSIGPIPE makes writes to a pipe without a reader return EPIPE, until the returned function is
// called. Without a signal.Notify for SIGPIPE, that write to stdout or stderr ends the process.
// signal.Ignore is not used because child processes would inherit it.
func surviveSIGPIPE() (restore func()) {
	received := make(chan os.Signal, 1) // never read: package signal drops what does not fit
	signal.Notify(received, syscall.SIGPIPE)
	return func() { signal.Stop(received) }
}
