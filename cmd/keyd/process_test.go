package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The test binary is keyd itself when it is told so.
func TestMain(m *testing.M) {
	if os.Getenv("KEYD_TEST_MAIN") != "" {
		main()
	}
	code := m.Run()
	removeServer()
	os.Exit(code)
}

func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), "KEYD_TEST_MAIN=yes")
	return cmd
}

// run runs keyd to its end.
func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := command(t, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// process is a running keyd.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	addr map[string]string // by field of the configuration
	done chan struct{}

	mu  sync.Mutex
	log strings.Builder
}

// launch starts keyd and waits until it says that it runs.
func launch(t *testing.T, config string) *process {
	t.Helper()
	p := &process{t: t, cmd: command(t, "-config", config), addr: map[string]string{}, done: make(chan struct{})}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		_ = p.cmd.Wait()
	})
	started := make(chan bool, 1)
	go p.read(stderr, started)
	if !<-started {
		t.Fatalf("keyd did not start:\n%s", p.logged())
	}
	return p
}

// read reads the log: JSON lines, each.
func (p *process) read(stderr io.Reader, started chan<- bool) {
	defer close(p.done)
	defer func() { started <- false }()
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		var line struct{ Msg, Field, Address string }
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			p.t.Errorf("a line of the log is no JSON: %s", lines.Text())
		}
		p.mu.Lock()
		p.log.WriteString(lines.Text() + "\n")
		p.mu.Unlock()
		switch line.Msg {
		case "listening":
			p.addr[line.Field] = line.Address
		case "started":
			started <- true
		}
	}
}

func (p *process) logged() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// stop sends the signal and returns the exit code.
func (p *process) stop(s syscall.Signal) int {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
	<-p.done
	_ = p.cmd.Wait() // the exit code is what is looked at
	return p.cmd.ProcessState.ExitCode()
}

// ask sends one request to a side and returns the status and the answer's JSON.
func (p *process) ask(side, bearer, method, path, body string) (int, map[string]any) {
	p.t.Helper()
	r, err := http.NewRequest(method, "http://"+p.addr["listen."+side]+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		p.t.Errorf("%s %s: %v", method, path, err)
		return 0, nil
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	var v map[string]any
	if err == nil && resp.StatusCode != http.StatusNoContent {
		err = json.Unmarshal(raw, &v)
	}
	if err != nil {
		p.t.Errorf("%s %s: %d: %v", method, path, resp.StatusCode, err)
	}
	p.described(r, body, resp.StatusCode, resp.Header, raw)
	return resp.StatusCode, v
}

// operator asks as alice.
func (p *process) operator(method, path, body string) map[string]any {
	p.t.Helper()
	status, v := p.ask("operators", aliceToken, method, path, body)
	if status >= 300 {
		p.t.Fatalf("%s %s: %d %v", method, path, status, v)
	}
	return v
}

// polls is the number of the last poll of all tests.
var polls atomic.Int64

// poll polls as the sidecar s, which starts with after -1: it requests the head, and acknowledges it.
func (p *process) poll(after int64, epoch string, wait time.Duration) (int, map[string]any) {
	p.t.Helper()
	status, v := p.ask("sidecars", sidecarToken, "POST", "/v1/changes", fmt.Sprintf(
		`{"sidecar":"s","poll":%d,"after":%d,"epoch":%q,"wait_ms":%d,"max_stale_ms":600000}`, polls.Add(1), after, epoch, wait.Milliseconds()))
	if after == -1 && status == http.StatusGone {
		return p.poll(int64(v["revision"].(float64)), v["epoch"].(string), wait)
	}
	return status, v
}

const (
	aliceToken   = "canary-alice-token"
	sidecarToken = "canary-sidecar-token"
)

// configure writes a configuration as in the documentation, with free ports, and
// returns its name; more is put at its end.
func configure(t *testing.T, more string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"key-api.token": sidecarToken + "\n",
		"alice.token":   aliceToken + "\n",
		"keyd.yaml": `listen:
  sidecars: tcp://127.0.0.1:0
  operators: tcp://127.0.0.1:0
  owners: unix://` + dir + `/owners.sock
  admin: tcp://127.0.0.1:0
store: sqlite://` + dir + `/keys.db
sidecar_token_files: [key-api.token]
operators: [{name: alice, token_file: alice.token}]
lease: 15s
log_retention: 1h
longest_max_stale: 1h
keys_per_account: 100
owner_limits: {changes_per_minute: 60000, burst: 10000, concurrent: 100}
` + more,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "keyd.yaml")
}
