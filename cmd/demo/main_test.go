package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/envoy"
)

// clone is a folder with the programs as `make build` leaves them.
type clone struct{ dir, envoy string }

var build = sync.OnceValues(func() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "demotest"); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", dir+"/", "../demo", "../keyd", "../authzd", "../../envoy/echo")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := build(); err == nil {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

func newClone(t *testing.T) clone {
	t.Helper()
	programs, err := build()
	if err != nil {
		t.Fatal(err)
	}
	// A path that needs quotes, has what an address cannot have, and is too long for a socket's and a script's first line.
	c := clone{dir: filepath.Join(t.TempDir(), "it's 100% a clone (#1?) in", strings.Repeat("folders with long names, &c./", 20))}
	if c.envoy, err = envoy.Find(t.Context(), envoy.Newest, os.Stderr); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(c.dir, "bin")
	if err := os.MkdirAll(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"demo", "keyd", "authzd", "echo"} {
		if err := os.Link(filepath.Join(programs, name), filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c clone) file(name string) string { return filepath.Join(c.dir, name) }

func (c clone) command(t *testing.T, variables ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), c.file("bin/demo"))
	cmd.Dir = c.dir
	cmd.Env = append(append(os.Environ(), "ENVOY="+c.envoy), variables...)
	return cmd
}

// demo is a running demo.
type demo struct {
	*exec.Cmd
	lines chan string
	env   map[string]string
}

// up starts a demo and waits until it is ready.
func (c clone) up(t *testing.T, port string) *demo {
	t.Helper()
	d := &demo{Cmd: c.command(t, "PORT="+port), lines: make(chan string, 1000), env: map[string]string{}}
	d.Stderr = os.Stderr
	stdout, err := d.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(d.lines)
		for scan := bufio.NewScanner(stdout); scan.Scan(); {
			d.lines <- scan.Text()
		}
	}()
	d.says(t, "ready")
	text, err := os.ReadFile(c.file(".demo/demo.env"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		d.env[name] = strings.ReplaceAll(strings.Trim(value, "'"), `'\''`, "'")
	}
	return d
}

// says waits for a line that begins so.
func (d *demo) says(t *testing.T, begin string) {
	t.Helper()
	var heard []string
	for line := range d.lines {
		if strings.HasPrefix(line, begin) {
			return
		}
		heard = append(heard, line)
	}
	t.Fatalf("the demo ended without saying %q:\n%s", begin, strings.Join(heard, "\n"))
}

// stop asks the demo to end and holds it to the ten seconds and to success.
func (d *demo) stop(t *testing.T, signal os.Signal) {
	t.Helper()
	begin := time.Now()
	if err := d.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	for range d.lines { // until its output ends: nobody holds it any more
	}
	if err := d.Wait(); err != nil {
		t.Errorf("the demo ended with %v", err)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the stop took %v", took)
	}
}

func (d *demo) get(t *testing.T, path, key string) (status int, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.env["PHANTOM_URL"]+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+d.env[key])
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// child returns the process of a part, by its name.
func (d *demo) child(t *testing.T, name string) int {
	t.Helper()
	out, err := exec.Command("pgrep", "-x", "-P", fmt.Sprint(d.Process.Pid), name).Output()
	if err != nil {
		t.Fatalf("pgrep finds no %s: %v", name, err)
	}
	var pid int
	if _, err := fmt.Sscan(string(out), &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// gone waits until nobody answers where the demo's parts were.
func (d *demo) gone(t *testing.T) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for _, name := range []string{"PHANTOM_URL", "KEYCTL_URL", "AUTHZD_ADMIN", "KEYD_ADMIN", "ENVOY_ADMIN"} {
		address := strings.TrimPrefix(d.env[name], "http://")
		for {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				break
			}
			_ = conn.Close()
			select {
			case <-time.After(20 * time.Millisecond):
			case <-deadline:
				t.Fatalf("%s still answers", name)
			}
		}
	}
}

// localhosts are this machine's loopback addresses.
func localhosts(t *testing.T) []string {
	t.Helper()
	found := slices.DeleteFunc([]string{"127.0.0.1", "::1"}, func(host string) bool {
		listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err == nil {
			_ = listener.Close()
		}
		return err != nil
	})
	if len(found) == 0 {
		t.Fatal("no loopback address")
	}
	return found
}

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// refused runs a demo that must fail at once, with one line that says why.
func (c clone) refused(t *testing.T, want string, variables ...string) {
	t.Helper()
	var stderr strings.Builder
	cmd := c.command(t, variables...)
	cmd.Stderr = &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("%q: %v, want exit status 1", want, err)
	}
	if got := stderr.String(); !strings.Contains(got, want) || strings.Count(got, "\n") != 1 {
		t.Errorf("%q, want one line with %q", got, want)
	}
}

func TestDemo(t *testing.T) {
	c, port := newClone(t), freePort(t)
	t.Setenv("TMPDIR", c.dir) // no way out
	d := c.up(t, port)

	names := []string{
		"PHANTOM_URL", "PHANTOM_KEY", "PHANTOM_CHAT_KEY", "PHANTOM_REVOKED_KEY", "PHANTOM_EXPIRED_KEY", "PHANTOM_TERMINATED_KEY",
		"PHANTOM_SESSION", "KEYCTL_URL", "KEYCTL_TOKEN_FILE", "AUTHZD_ADMIN", "KEYD_ADMIN", "ENVOY_ADMIN",
	}
	for _, name := range names {
		if d.env[name] == "" {
			t.Errorf("demo.env lacks %s", name)
		}
	}
	if info, err := os.Stat(c.file(".demo/demo.env")); err != nil || info.Mode().Perm() != 0o600 || len(d.env) != len(names) {
		t.Errorf("demo.env: %v, %v, %d variables", info, err, len(d.env))
	}
	for key, want := range map[string]int{
		"": 401, "PHANTOM_KEY": 403, "PHANTOM_CHAT_KEY": 200, "PHANTOM_REVOKED_KEY": 401, "PHANTOM_EXPIRED_KEY": 401, "PHANTOM_TERMINATED_KEY": 403,
	} {
		if status, body := d.get(t, "/api/v1/me/vector-store", key); status != want {
			t.Errorf("%s: %d %s", key, status, body)
		}
	}

	// localhost is both addresses, where a machine has both.
	for _, host := range localhosts(t) {
		response, err := http.Get("http://" + net.JoinHostPort(host, port) + "/")
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
	}
	tokens := map[string]bool{}
	for _, name := range []string{"key-api.token", "operator.token"} {
		token, err := os.ReadFile(c.file(".demo/" + name))
		if err != nil || len(token) < 32 || tokens[string(token)] {
			t.Errorf("%s has %d characters, or those of the other: %v", name, len(token), err)
		}
		tokens[string(token)] = true
	}

	// A second one, here or on the same port, says so and harms nothing.
	c.refused(t, "already runs in this clone (process "+fmt.Sprint(d.Process.Pid)+")", "PORT="+freePort(t))
	other := newClone(t)
	other.refused(t, "port "+port+" is busy", "PORT="+port)
	if status, body := d.get(t, "/api/v1/me/vector-store", "PHANTOM_CHAT_KEY"); status != 200 {
		t.Errorf("after a second demo was refused: %d %s", status, body)
	}

	// A part that dies is named, and the rest goes on.
	for _, name := range []string{"keyd", "echo", "envoy"} {
		d.child(t, name)
	}
	if err := syscall.Kill(d.child(t, "authzd"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	d.says(t, "authzd has died: signal: killed")
	if status, _ := d.get(t, "/api/v1/me/vector-store", "PHANTOM_CHAT_KEY"); status != 503 {
		t.Errorf("without authzd: %d", status)
	}
	if _, err := os.Stat(d.env["KEYCTL_TOKEN_FILE"]); err != nil {
		t.Error(err)
	}
	// One that is frozen does not hold up the end.
	if err := syscall.Kill(d.child(t, "keyd"), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	d.stop(t, syscall.SIGTERM)
	d.gone(t)
	c.leavesNothing(t)
	other.leavesNothing(t)
}

// leavesNothing holds that the demo's folders are gone.
func (c clone) leavesNothing(t *testing.T) {
	t.Helper()
	for _, path := range []string{c.file(".demo"), shortName(c.file(".demo"))} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("left behind: %s (%v)", path, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	c := newClone(t)
	for _, port := range []string{"x", "0", "65536", "-1", "10000.0"} {
		c.refused(t, "PORT="+port+" must be a number from 1 to 65535", "PORT="+port)
	}
	c.refused(t, "ENVOY=/no/envoy: no such file", "ENVOY=/no/envoy", "PORT="+freePort(t))
	for _, host := range localhosts(t) {
		busy, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(busy.Addr().String())
		c.refused(t, "port "+port+" is busy", "PORT="+port)
		_ = busy.Close()
	}
	if err := os.Remove(c.file("bin/keyd")); err != nil {
		t.Fatal(err)
	}
	c.refused(t, "bin/keyd is missing: run `make build`")
	c.leavesNothing(t)
}

// TestPartFailsAtStart: the part and the end of its log are named, and nothing is
// left running.
func TestPartFailsAtStart(t *testing.T) {
	c := newClone(t)
	if err := os.Remove(c.file("bin/authzd")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.file("bin/authzd"), []byte("#!/bin/sh\necho out of order >&2\nexit 7\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	out, err := c.command(t, "PORT="+freePort(t)).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "demo: authzd ended: exit status 7\nout of order\n") {
		t.Errorf("%v\n%s", err, out)
	}
	c.leavesNothing(t)
}

// TestHangUpIsIgnoredUnderNohup: what nohup ignores, the demo does not bring back.
func TestHangUpIsIgnoredUnderNohup(t *testing.T) {
	if !slices.Contains(stopSignals(), os.Signal(syscall.SIGHUP)) {
		t.Error("a closed terminal does not stop the demo")
	}
	signal.Ignore(syscall.SIGHUP)
	defer signal.Reset(syscall.SIGHUP)
	if slices.Contains(stopSignals(), os.Signal(syscall.SIGHUP)) {
		t.Error("a closed terminal stops the demo under nohup")
	}
}

func TestShellQuotes(t *testing.T) {
	v := variables{{"A", "it's $HOME `x`"}, {"B", "plain"}}
	out, err := exec.Command("sh", "-c", string(v.shell())+`printf '%s|%s' "$A" "$B"`).Output()
	if err != nil || string(out) != "it's $HOME `x`|plain" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestExamplesAreHalfADozenOrMore(t *testing.T) {
	if len(examples) < 6 {
		t.Error(len(examples))
	}
	if !slices.ContainsFunc(examples, func(e example) bool { return e.command() == `curl "$PHANTOM_URL/api/v1/me/vector-store"` }) {
		t.Error("no command for a request without headers")
	}
}
