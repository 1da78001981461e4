// Command demo runs the whole stack on this machine: keyd on a fresh SQLite
// database, authzd, the echo upstream and a real Envoy in front of them. It is
// what `make up` runs, in the clone, with the other programs beside its own.
//
// Environment: PORT is Envoy's (10000), ENVOY=/path another Envoy than the pinned
// one. All that it writes is in .demo/, and gone again when it stops.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

const (
	prepareTime = 60 * time.Second // from the first part's start to ready; an installation of Envoy comes before it
	stopTime    = 8 * time.Second  // for all parts together
)

func main() {
	// Linux ends the parts together with the thread that started them (see
	// attributes): so that is the main thread, which lives as long as the demo.
	runtime.LockOSThread()

	// A terminal that is gone must end in an error of a write, not of the demo.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), stopSignals()...)
	defer stop()

	out := newConsole(os.Stdout)
	err := run(ctx, out)
	out.Close()
	if err != nil {
		_, _ = fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out *console) error {
	if len(os.Args) > 1 {
		return fmt.Errorf("unexpected argument %q: PORT=N in the environment is all that can be chosen", os.Args[1])
	}
	port, err := publicPort(os.Getenv("PORT"))
	if err != nil {
		return err
	}
	programs, err := findPrograms()
	if err != nil {
		return err
	}
	home, err := claim(".demo")
	if err != nil {
		return err
	}
	defer home.Release()
	listener, err := localhost(port, listenTCP)
	if err != nil {
		return err
	}
	if programs.envoy, err = findEnvoy(ctx, home, out); err != nil {
		return stopped(ctx, err)
	}
	s, err := plan(ctx, home, port, listener)
	if err != nil {
		return err
	}
	defer s.stop(out)
	if err := s.prepare(ctx, programs, out); err != nil {
		return stopped(ctx, err)
	}
	s.watch(ctx, out)
	return nil
}

// stopped returns what to say of a start that failed: no more than that if a signal stopped it.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("stopped before it was ready")
	}
	return err
}

// stopSignals are the signals that stop the demo. SIGHUP is one, for a terminal that is
// closed, unless nohup has made the demo ignore it.
func stopSignals() []os.Signal {
	signals := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	return signals
}

func publicPort(text string) (int, error) {
	if text == "" {
		return 10000, nil
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("PORT=%s must be a number from 1 to 65535", text)
	}
	return int(port), nil
}
