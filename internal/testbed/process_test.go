package testbed

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func start(t *testing.T, script string) *Process {
	t.Helper()
	p, err := Start(t.TempDir(), "script", exec.Command("sh", "-c", script))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

func awaitLine(t *testing.T, p *Process, want string) {
	t.Helper()
	if err := p.AwaitLine(t.Context(), func(line string) bool { return line == want }); err != nil {
		t.Fatal(err)
	}
}

func TestStopReturnsExitCode(t *testing.T) {
	p := start(t, `trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done`)
	awaitLine(t, p, "ready")
	if code, err := p.Stop(syscall.SIGTERM); code != 3 || err != nil || p.Status() != "exit status 3" {
		t.Errorf("exit code %d, %v, %s", code, err, p.Status())
	}
	killed := start(t, `exec sleep 60`)
	if code, err := killed.Stop(syscall.SIGKILL); code != -1 || err != nil || killed.Status() != "signal: killed" {
		t.Errorf("killed: exit code %d, %v, %s", code, err, killed.Status())
	}
}

func TestAwaitFailsWhenProcessExits(t *testing.T) {
	p := start(t, `echo first; echo out of order >&2; exit 7`)
	err := p.Await(t.Context(), func() error { return errors.New("not yet") })
	if err == nil || err.Error() != "script exited: exit status 7\nfirst\nout of order" {
		t.Errorf("error: %v", err)
	}
}

func TestAwaitEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Until(ctx, func() error { return errors.New("not yet") }); err == nil || err.Error() != "timed out waiting for success: not yet" {
		t.Errorf("error: %v", err)
	}
}

func TestAwaitStartedCollectsAddresses(t *testing.T) {
	p := start(t, `printf '{"msg":"listening","field":"listen.admin","address":"127.0.0.1:1"}\n'
		printf '{"msg":"star'; sleep 0.05; printf 'ted"}\n'; exec sleep 60`)
	if err := p.AwaitStarted(t.Context()); err != nil || p.Admin() != "http://127.0.0.1:1" {
		t.Errorf("%v, admin listener %s", err, p.Admin())
	}
}

func TestSignalReturnsWhenStopped(t *testing.T) {
	p := start(t, `while :; do echo line; done >/dev/null`)
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ps", "-o", "state=", "-p", strconv.Itoa(p.Pid())).Output(); err != nil || !strings.HasPrefix(string(out), "T") {
		t.Errorf("state %q, %v", out, err)
	}
	p.Shutdown(Patience)
	if p.Status() != "signal: terminated" {
		t.Errorf("a stopped process: %s", p.Status())
	}
}

func TestStackStopsLastFirstAndKillsTheSlow(t *testing.T) {
	s := &Stack{Dir: t.TempDir()}
	run := func(name, script string) {
		t.Helper()
		p, err := s.Start(name, exec.Command("sh", "-c", script))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Kill)
		awaitLine(t, p, "ready")
	}
	mark := filepath.Join(s.Dir, "stopped")
	run("first", `trap 'test -e `+mark+` && exit 5; exit 1' TERM; echo ready; while :; do sleep 0.01; done`)
	run("second", `trap 'touch `+mark+`; exit 0' TERM; echo ready; while :; do sleep 0.01; done`)
	run("slow", `trap '' TERM; echo ready; while :; do sleep 0.01; done`)
	began := time.Now()
	s.Stop(400 * time.Millisecond)
	first, slow := s.Processes()[0], s.Processes()[2]
	if first.Status() != "exit status 5" || slow.Status() != "signal: killed" || time.Since(began) > Patience {
		t.Errorf("first: %s, slow: %s, after %v", first.Status(), slow.Status(), time.Since(began))
	}
	if err := s.Await(t.Context(), "success", func() error { return errors.New("not yet") }); err == nil || !strings.HasPrefix(err.Error(), "first exited") {
		t.Errorf("error: %v", err)
	}
}
