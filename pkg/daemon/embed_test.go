package daemon

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// embedded returns a program whose configuration is the text of a file.
func embedded(admin net.Addr, start func(context.Context, *Runtime, string) (func(string) error, error)) Program[string] {
	return Program[string]{
		Name:    "embedded",
		Metrics: "embedded",
		Load: func(path string) (string, error) {
			if path == "" {
				return "inline", nil
			}
			text, err := os.ReadFile(path)
			return string(text), err
		},
		Settings: func(string) Settings {
			return Settings{Admin: admin, Drain: 5 * time.Second, DrainDelay: time.Hour, LogLevel: "info"}
		},
		NeedsRestart: func(string, string) []string { return nil },
		Start:        start,
	}
}

// lockedBuffer is a log that a test reads while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

func unixAdmin(t *testing.T) net.Addr {
	t.Helper()
	dir, err := os.MkdirTemp("", "e") // a short name, because the path of a socket is limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, "admin.sock")}
}

func readyz(admin net.Addr) (int, error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, admin.Network(), admin.String())
	}}
	request, err := http.NewRequest(http.MethodGet, "http://admin/readyz", nil)
	if err != nil {
		return 0, err
	}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return 0, err
	}
	return answer.StatusCode, answer.Body.Close()
}

func TestEmbeddedProgramServesUntilStop(t *testing.T) {
	defer goleak.VerifyNone(t)
	admin, stopped := unixAdmin(t), false
	p := embedded(admin, func(_ context.Context, rt *Runtime, _ string) (func(string) error, error) {
		rt.Add(Component{Name: "part", Stop: func(context.Context) error { stopped = true; return nil }})
		return nil, nil //nolint:nilnil // a program without a reload
	})
	e, err := Embed(p, "", new(lockedBuffer))
	if err != nil {
		t.Fatal(err)
	}
	if status, err := readyz(admin); status != http.StatusOK || err != nil {
		t.Errorf("readyz: %d, %v", status, err)
	}
	e.Stop() // at once, without the drain delay
	e.Stop()
	if !stopped {
		t.Error("the component was not stopped")
	}
	if _, err := readyz(admin); err == nil {
		t.Error("the admin listener still answers")
	}
}

func TestEmbeddedProgramThatCannotStart(t *testing.T) {
	defer goleak.VerifyNone(t)
	admin, stopped := unixAdmin(t), false
	p := embedded(admin, func(_ context.Context, rt *Runtime, _ string) (func(string) error, error) {
		rt.Add(Component{Name: "part", Stop: func(context.Context) error { stopped = true; return nil }})
		return nil, errors.New("no room")
	})
	if _, err := Embed(p, "", new(lockedBuffer)); err == nil || err.Error() != "no room" {
		t.Errorf("the error %v", err)
	}
	if !stopped {
		t.Error("the component still runs")
	}
	panics := embedded(admin, func(context.Context, *Runtime, string) (func(string) error, error) { panic("a secret") })
	if _, err := Embed(panics, "", new(lockedBuffer)); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("the error of a panic: %v", err)
	}
	wrong := embedded(admin, nil)
	wrong.Load = func(string) (string, error) { return "", errors.New("a mistake") }
	if _, err := Embed(wrong, "", new(lockedBuffer)); err == nil || err.Error() != "a mistake" {
		t.Errorf("the error of a wrong configuration: %v", err)
	}
}

// A component that fails ends the program, but not the process.
func TestEmbeddedProgramWithAFailedComponent(t *testing.T) {
	defer goleak.VerifyNone(t)
	fail, log := make(chan struct{}), new(lockedBuffer)
	p := embedded(unixAdmin(t), func(_ context.Context, rt *Runtime, _ string) (func(string) error, error) {
		rt.Add(Component{Name: "part", Run: func(context.Context) error { <-fail; panic("x") }})
		return nil, nil //nolint:nilnil // a program without a reload
	})
	e, err := Embed(p, "", log)
	if err != nil {
		t.Fatal(err)
	}
	close(fail)
	<-e.exited
	e.Stop()
	if !strings.Contains(log.String(), "component exited unexpectedly") {
		t.Error(log.String())
	}
}

func TestEmbeddedProgramReloadsItsFile(t *testing.T) {
	defer goleak.VerifyNone(t)
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	loaded := make(chan string, 1)
	p := embedded(unixAdmin(t), func(_ context.Context, _ *Runtime, cfg string) (func(string) error, error) {
		loaded <- cfg
		return func(next string) error { loaded <- next; return nil }, nil
	})
	e, err := Embed(p, file, new(lockedBuffer))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Stop()
	for _, want := range []string{"first", "second"} {
		if got := <-loaded; got != want {
			t.Errorf("loaded %q, want %q", got, want)
		}
		if err := os.WriteFile(file, []byte("second"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A file on which the loader panics must not end the process, which is another program's.
func TestEmbeddedProgramSurvivesPanicOfItsLoader(t *testing.T) {
	defer goleak.VerifyNone(t)
	file, log := filepath.Join(t.TempDir(), "config"), new(lockedBuffer)
	if err := os.WriteFile(file, []byte("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := embedded(unixAdmin(t), func(context.Context, *Runtime, string) (func(string) error, error) {
		return func(string) error { return nil }, nil
	})
	load, panicked := p.Load, make(chan struct{})
	p.Load = func(path string) (string, error) {
		text, err := load(path)
		if text == "second" {
			defer close(panicked)
			panic("a secret")
		}
		return text, err
	}
	e, err := Embed(p, file, log)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("second"), 0o600); err != nil {
		t.Fatal(err)
	}
	<-panicked
	if err := os.WriteFile(file, []byte("third"), 0o600); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(log.String(), "configuration reloaded") {
		<-time.After(time.Millisecond)
	}
	e.Stop()
	if text := log.String(); !strings.Contains(text, "reload rejected") || strings.Contains(text, "a secret") {
		t.Error(text)
	}
}
