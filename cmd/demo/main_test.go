package main

import (
	"context"
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
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// clone is a folder with the programs in bin, as `make build` leaves them.
type clone struct{ dir, envoy string }

var build = sync.OnceValues(func() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "demotest"); err != nil {
		return "", err
	}
	return dir, errors.Join(
		testbed.Build(context.Background(), dir, "cmd/demo", "cmd/keyd", "cmd/authzd", "envoy/echo"),
		testbed.BuildModule(context.Background(), dir),
	)
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
	// The path needs quotes, contains characters of URLs, and exceeds the length of a socket's path and of a script's
	// first line.
	c := clone{dir: filepath.Join(t.TempDir(), "it's 100% a clone (#1?) in", strings.Repeat("folders with long names, &c./", 20))}
	if c.envoy, err = envoy.Find(t.Context(), envoy.Newest, os.Stderr); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(c.dir, "bin")
	if err := os.MkdirAll(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"demo", "keyd", "authzd", "echo", library} {
		if err := os.Link(filepath.Join(programs, name), filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c clone) file(name string) string { return filepath.Join(c.dir, name) }

func (c clone) command(variables ...string) *exec.Cmd {
	cmd := exec.Command(c.file("bin/demo"))
	cmd.Dir = c.dir
	cmd.Env = append(append(os.Environ(), "ENVOY="+c.envoy), variables...)
	return cmd
}

// demo is a running demo.
type demo struct {
	*testbed.Process
	env map[string]string
}

// up starts a demo and waits until it is ready.
func (c clone) up(t *testing.T, port string, variables ...string) *demo {
	t.Helper()
	p, err := testbed.Start(t.TempDir(), "demo", c.command(append(variables, "PORT="+port)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Shutdown(testbed.Patience) })
	d := &demo{Process: p, env: map[string]string{}}
	d.prints(t, "ready")
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

// prints waits for a line that begins with prefix.
func (d *demo) prints(t *testing.T, prefix string) {
	t.Helper()
	if err := d.AwaitLine(t.Context(), func(line string) bool { return strings.HasPrefix(line, prefix) }); err != nil {
		t.Fatalf("no line %q: %v", prefix, err)
	}
}

// stop sends a signal and expects success within ten seconds.
func (d *demo) stop(t *testing.T, signal os.Signal) {
	t.Helper()
	begin := time.Now()
	if code, err := d.Stop(signal); err != nil || code != 0 {
		t.Errorf("exit code %d, %v:\n%s", code, err, d.Output())
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

// child returns the process of that name.
func (d *demo) child(t *testing.T, name string) int {
	t.Helper()
	out, err := exec.Command("pgrep", "-x", "-P", fmt.Sprint(d.Pid()), name).Output()
	if err != nil {
		t.Fatalf("pgrep finds no %s: %v", name, err)
	}
	var pid int
	if _, err := fmt.Sscan(string(out), &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// gone waits until no program listens at the demo's addresses.
func (d *demo) gone(t *testing.T) {
	t.Helper()
	for _, name := range []string{"PHANTOM_URL", "KEYCTL_URL", "AUTHZD_ADMIN", "KEYD_ADMIN", "ENVOY_ADMIN"} {
		err := testbed.Until(t.Context(), func() error {
			if conn, err := net.Dial("tcp", strings.TrimPrefix(d.env[name], "http://")); err == nil {
				return errors.Join(errors.New("connected"), conn.Close())
			}
			return nil
		})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}

// localhosts returns the loopback addresses of this machine.
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
	addresses, err := testbed.FreeAddresses(1)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(addresses[0], ":")
	return port
}

// refused runs a demo that must exit with 1 and one line of error.
func (c clone) refused(t *testing.T, want string, variables ...string) {
	t.Helper()
	var stderr strings.Builder
	cmd := c.command(variables...)
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
	t.Setenv("TMPDIR", c.dir) // too long for the sockets
	d := c.up(t, port)

	names := []string{
		"PHANTOM_URL", "PHANTOM_KEY", "PHANTOM_CHAT_KEY", "PHANTOM_REVOKED_KEY", "PHANTOM_EXPIRED_KEY", "PHANTOM_TERMINATED_KEY",
		"PHANTOM_SESSION", "KEYCTL_URL", "KEYCTL_TOKEN_FILE", "AUTHZD_ADMIN", "KEYD_ADMIN", "ENVOY_ADMIN",
	}
	for _, name := range names {
		if d.env[name] == "" {
			t.Errorf("demo.env: missing %s", name)
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
	for _, host := range localhosts(t) {
		if _, err := testbed.Get(t.Context(), "http://"+net.JoinHostPort(host, port)+"/"); err != nil {
			t.Error(err)
		}
	}
	tokens := map[string]bool{}
	for _, name := range []string{"key-api.token", "operator.token"} {
		token, err := os.ReadFile(c.file(".demo/" + name))
		if err != nil || len(token) < 32 || tokens[string(token)] {
			t.Errorf("%s has %d characters, or equals the other token: %v", name, len(token), err)
		}
		tokens[string(token)] = true
	}

	// A second demo, in this clone or at this port, reports that and changes nothing.
	c.refused(t, "already runs in this clone (process "+fmt.Sprint(d.Pid())+")", "PORT="+freePort(t))
	other := newClone(t)
	other.refused(t, "port "+port+" is in use", "PORT="+port)
	if status, body := d.get(t, "/api/v1/me/vector-store", "PHANTOM_CHAT_KEY"); status != 200 {
		t.Errorf("after a second demo was refused: %d %s", status, body)
	}

	// A program that exits is named, and the others keep running.
	for _, name := range []string{"keyd", "echo", "envoy"} {
		d.child(t, name)
	}
	if err := syscall.Kill(d.child(t, "authzd"), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	d.prints(t, "authzd exited: signal: killed")
	if status, _ := d.get(t, "/api/v1/me/vector-store", "PHANTOM_CHAT_KEY"); status != 503 {
		t.Errorf("without authzd: %d", status)
	}
	if _, err := os.Stat(d.env["KEYCTL_TOKEN_FILE"]); err != nil {
		t.Error(err)
	}
	// A frozen program does not delay the stop.
	if err := syscall.Kill(d.child(t, "keyd"), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	d.stop(t, syscall.SIGTERM)
	d.gone(t)
	c.leavesNothing(t)
	other.leavesNothing(t)
}

// leavesNothing expects that the demo's folders are removed.
func (c clone) leavesNothing(t *testing.T) {
	t.Helper()
	for _, path := range []string{c.file(".demo"), shortName(c.file(".demo"))} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left (%v)", path, err)
		}
	}
}

func TestInvalidSettingsAreRefused(t *testing.T) {
	c := newClone(t)
	for _, port := range []string{"x", "0", "65536", "-1", "10000.0"} {
		c.refused(t, "PORT="+port+" is invalid: must be a number from 1 to 65535", "PORT="+port)
	}
	c.refused(t, "MODULE=yes is invalid: must be 1 for the Envoy module, or 0", "MODULE=yes")
	c.refused(t, "ENVOY=/no/envoy: no such file", "ENVOY=/no/envoy", "PORT="+freePort(t))
	for _, host := range localhosts(t) {
		listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(listener.Addr().String())
		c.refused(t, "port "+port+" is in use", "PORT="+port)
		_ = listener.Close()
	}
	if err := os.Remove(c.file("bin/keyd")); err != nil {
		t.Fatal(err)
	}
	c.refused(t, "bin/keyd is missing: run `make build`")
	if err := errors.Join(os.Rename(c.file("bin/authzd"), c.file("bin/keyd")), os.Remove(c.file("bin/"+library))); err != nil {
		t.Fatal(err)
	}
	c.refused(t, "bin/authzd is missing: run `make build`", "MODULE=0")
	c.refused(t, "bin/"+library+" is missing: run `make module`", "MODULE=1")
	c.leavesNothing(t)
}

func TestFailureAtStartShowsEndOfLog(t *testing.T) {
	c := newClone(t)
	if err := os.Remove(c.file("bin/authzd")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.file("bin/authzd"), []byte("#!/bin/sh\necho out of order >&2\nexit 7\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	out, err := c.command("PORT=" + freePort(t)).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "demo: authzd exited: exit status 7\nout of order\n") {
		t.Errorf("%v\n%s", err, out)
	}
	c.leavesNothing(t)
}

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

func TestShellQuotesValues(t *testing.T) {
	v := variables{{"A", "it's $HOME `x`"}, {"B", "plain"}}
	out, err := exec.Command("sh", "-c", string(v.shell())+`printf '%s|%s' "$A" "$B"`).Output()
	if err != nil || string(out) != "it's $HOME `x`|plain" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestCommandOfExampleWithoutHeaders(t *testing.T) {
	if !slices.ContainsFunc(examples, func(e example) bool { return e.command() == `curl "$PHANTOM_URL/api/v1/me/vector-store"` }) {
		t.Error("no command for a request without headers")
	}
}
