package daemon_test

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// running is the test program, running as a process.
type running struct {
	t      *testing.T
	dir    string
	cmd    *exec.Cmd
	stderr *os.File // the end that the test reads
	exited chan struct{}
}

// launch starts the test program, which logs into a pipe, and waits until it is ready.
func launch(t *testing.T) *running {
	t.Helper()
	dir, err := os.MkdirTemp("", "t")
	if err != nil {
		t.Fatal(err)
	}
	p := &running{t: t, dir: dir, exited: make(chan struct{})}
	config := filepath.Join(dir, "c")
	if err := os.WriteFile(config, []byte("admin=a.sock\nserve=s.sock\nword=hello\ndrain=5s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command("thing", "-config", config)
	ours, its, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stderr, p.cmd.Stderr = ours, its
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = its.Close()
	go func() { _ = p.cmd.Wait(); close(p.exited) }()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.exited
		_ = ours.Close()
		_ = os.RemoveAll(dir)
	})
	p.await("a.sock", "/readyz", "^200 ready")
	return p
}

func (p *running) request(socket, path string) string {
	return answer(filepath.Join(p.dir, socket), path, 5*time.Second)
}

func (p *running) await(socket, path, want string) {
	p.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; <-time.After(10 * time.Millisecond) {
		got := p.request(socket, path)
		if regexp.MustCompile("(?m)" + want).MatchString(got) {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%s: got %q, want %s", path, got, want)
		}
	}
}

// metric returns the value of a counter.
func (p *running) metric(name string) int {
	p.t.Helper()
	m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(p.request("a.sock", "/metrics"))
	if m == nil {
		p.t.Fatalf("no metric %s", name)
	}
	value, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		p.t.Fatal(err)
	}
	return int(value)
}

// stops sends SIGTERM and expects a clean exit within the drain time.
func (p *running) stops() {
	p.t.Helper()
	began := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-p.exited:
	case <-time.After(10 * time.Second):
		p.t.Fatal("SIGTERM did not stop the program")
	}
	if state := p.cmd.ProcessState; state.ExitCode() != 0 || time.Since(began) > 5*time.Second {
		p.t.Errorf("got %v after %v", state, time.Since(began))
	}
}

const dropped = "thing_log_lines_dropped_total"

func TestLogReaderGoesAway(t *testing.T) {
	t.Parallel()
	p := launch(t)
	if err := p.stderr.Close(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/log", "/std", "/panic", "/"} {
		if got := p.request("s.sock", path); got != "200 hello" && path != "/panic" {
			t.Errorf("%s: %s", path, got)
		}
	}
	p.await("a.sock", "/metrics", `^`+dropped+` [1-9]`)
	p.stops()
}

func TestLogReaderStops(t *testing.T) {
	t.Parallel()
	p := launch(t)
	for range 3 {
		if got := p.request("s.sock", "/log"); got != "200 hello" {
			t.Fatal(got)
		}
	}
	if p.metric(dropped) == 0 {
		t.Error("no line is counted as dropped")
	}
	p.stops()
}

// TestLogReaderReturns: a reader that pauses gets whole lines, and one that reports how many were dropped.
func TestLogReaderReturns(t *testing.T) {
	t.Parallel()
	p := launch(t)
	p.request("s.sock", "/log")
	want := p.metric(dropped)
	lines := bufio.NewScanner(p.stderr)
	reported, written := 0, 0
	for reported == 0 && lines.Scan() {
		var line struct {
			Msg     string
			Dropped int
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatalf("%v: %s", err, lines.Text())
		}
		if strings.HasPrefix(line.Msg, "line ") {
			written++
		}
		reported = line.Dropped
	}
	if reported != want || written+reported != 4096 {
		t.Errorf("%d lines are written, %d reported and %d counted as dropped", written, reported, want)
	}
	go func() { _, _ = io.Copy(io.Discard, p.stderr) }()
	p.stops()
}

// TestRepeatedFailuresAreOmitted: repeated failures are logged as some lines and counted.
func TestRepeatedFailuresAreOmitted(t *testing.T) {
	t.Parallel()
	p := launch(t)
	for range 300 {
		p.request("s.sock", "/panic")
	}
	left := p.metric("thing_log_lines_repeated_total")
	if got := p.metric(`thing_panics_total\{server="words"\}`); got != 300 {
		t.Errorf("%d panics are counted", got)
	}
	p.stops()
	raw, err := io.ReadAll(p.stderr)
	if err != nil {
		t.Fatal(err)
	}
	written := strings.Count(string(raw), "handler panicked")
	if written == 0 || written > 60 || written+left != 300 {
		t.Errorf("%d lines are written, %d are counted as omitted", written, left)
	}
}
