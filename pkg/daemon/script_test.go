package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "signal": signal, "await": await, "appears": appears, "looks": looks,
			"poll": poll, "polled": polled, "hammer": hammer, "hammered": hammered,
		},
		Setup: func(env *testscript.Env) error {
			env.Setenv("GORACE", "atexit_sleep_ms=0") // programs with the race detector sleep for 1 s before they exit
			env.Values[backgroundKey{}] = background{make(chan struct{}), make(chan string, 1)}
			return nil
		},
	})
}

// background is the state of what poll or hammer has started.
type background struct {
	stop   chan struct{}
	result chan string
}

type backgroundKey struct{}

func backgroundOf(ts *testscript.TestScript) background {
	return ts.Value(backgroundKey{}).(background)
}

// exits CODE PROGRAM ARGUMENTS… runs a program that must exit with the code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var failed *exec.ExitError
	switch {
	case errors.As(err, &failed):
		got = failed.ExitCode()
	default:
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// signal NAME CONFIG sends a signal to the background program with that configuration.
func signal(ts *testscript.TestScript, _ bool, args []string) {
	signals := map[string]os.Signal{
		"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP, "KILL": syscall.SIGKILL,
	}
	for _, cmd := range ts.BackgroundCmds() {
		if slices.Contains(cmd.Args, args[1]) {
			ts.Check(cmd.Process.Signal(signals[args[0]]))
			return
		}
	}
	ts.Fatalf("no running program with %s", args[1])
}

// await SOCKET PATH REGEXP sends requests over the socket until the answer (status and body) matches.
func await(ts *testscript.TestScript, _ bool, args []string) {
	want, got := regexp.MustCompile("(?m)"+args[2]), ""
	until(ts, args[1], func() (string, bool) {
		got = answer(ts.MkAbs(args[0]), args[1], time.Second)
		return got, want.MatchString(got)
	})
}

// appears FILE waits for a file.
func appears(ts *testscript.TestScript, _ bool, args []string) {
	until(ts, args[0], func() (string, bool) {
		_, err := os.Stat(ts.MkAbs(args[0]))
		return fmt.Sprint(err), err == nil
	})
}

// looks waits until the program has looked at its configuration file twice.
func looks(*testscript.TestScript, bool, []string) { <-time.After(1200 * time.Millisecond) }

// until calls look until it reports ok, for at most 20 seconds.
func until(ts *testscript.TestScript, what string, look func() (found string, ok bool)) {
	timeout := time.After(20 * time.Second)
	for {
		found, ok := look()
		if ok {
			return
		}
		select {
		case <-timeout:
			ts.Fatalf("timed out waiting for %s: got %q", what, found)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// poll SOCKET starts a long poll. polled REGEXP waits for its answer.
func poll(ts *testscript.TestScript, _ bool, args []string) {
	socket, run := ts.MkAbs(args[0]), backgroundOf(ts)
	go func() { run.result <- answer(socket, "/poll", 20*time.Second) }()
	await(ts, false, []string{args[0], "/polls", "^200 1$"})
}

func polled(ts *testscript.TestScript, _ bool, args []string) {
	if got := <-backgroundOf(ts).result; !regexp.MustCompile(args[0]).MatchString(got) {
		ts.Fatalf("the answer to the long poll is %q", got)
	}
}

// hammer SOCKET sends requests, one after the other, until hammered, which fails if one has failed.
func hammer(ts *testscript.TestScript, _ bool, args []string) {
	socket, run := ts.MkAbs(args[0]), backgroundOf(ts)
	go func() {
		count := 0
		for ; !isStopped(run.stop); count++ {
			if got := answer(socket, "/", 5*time.Second); got != "200 old" && got != "200 new" {
				run.result <- got
				return
			}
		}
		run.result <- fmt.Sprintf("ok after %d", count)
	}()
}

func hammered(ts *testscript.TestScript, _ bool, _ []string) {
	run := backgroundOf(ts)
	close(run.stop)
	got := <-run.result
	ts.Logf("hammered: %s", got)
	if !regexp.MustCompile(`^ok after \d\d+$`).MatchString(got) {
		ts.Fatalf("a request failed")
	}
}

func isStopped(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}

// answer returns status and body of a request on a new connection, or the error.
func answer(socket, path string, limit time.Duration) string {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}
	got, err := (&http.Client{Transport: transport, Timeout: limit}).Get("http://x" + path)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = got.Body.Close() }()
	body, err := io.ReadAll(got.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(got.StatusCode, " ", string(body))
}
