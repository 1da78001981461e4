// Command demo runs the whole stack on this machine: keyd with a new SQLite database, authzd, the echo upstream, and a
// real Envoy in front of them. `make up` runs it in the clone. The other programs are in the same folder as this one.
//
// Environment variables: PORT is Envoy's port (10000), ENVOY=/path another Envoy than the pinned one. With MODULE=1 Envoy
// runs the Envoy module, which checks requests in place of authzd. All its files are in .demo/, which it removes when it
// stops.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

const (
	// prepareTimeout is the time from the start of the first program to ready; Envoy is installed before. Smaller fails
	// on a slow machine; larger delays the report of a failure.
	prepareTimeout = 60 * time.Second
	// stopTimeout is the time for all programs to stop. Smaller kills a busy one; larger exceeds the promised 10 s.
	stopTimeout = 8 * time.Second
)

func main() {
	// Linux kills the programs when the thread that started them ends. The main thread ends with the demo.
	runtime.LockOSThread()

	// A write to a closed terminal must return an error and not end the demo.
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
		return fmt.Errorf("unexpected argument %q: set PORT in the environment to choose a port", os.Args[1])
	}
	port, err := publicPort(os.Getenv("PORT"))
	if err != nil {
		return err
	}
	module, err := useModule(os.Getenv("MODULE"))
	if err != nil {
		return err
	}
	bin, err := findPrograms(module)
	if err != nil {
		return err
	}
	work, err := claim(".demo")
	if err != nil {
		return err
	}
	defer work.Release()
	if _, err := localhost(port, listenTCP); err != nil {
		return err
	}
	envoyPath, err := findEnvoy(ctx, work, out)
	if err != nil {
		return stopped(ctx, err)
	}
	s, err := newStack(bin, work, port)
	if err != nil {
		return err
	}
	s.module = module
	defer s.stop(out)
	if err := s.prepare(ctx, envoyPath, out); err != nil {
		return stopped(ctx, err)
	}
	s.watch(ctx, out)
	return nil
}

// stopped returns the error of a failed start. After a signal the cause is of no interest.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("stopped during startup")
	}
	return err
}

// stopSignals are the signals that stop the demo. SIGHUP, which a closed terminal sends, is one unless nohup ignores it.
func stopSignals() []os.Signal {
	signals := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	return signals
}
