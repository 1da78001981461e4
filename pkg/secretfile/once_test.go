package secretfile

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/zap"
)

// pipe makes a named pipe that yields the content once.
func pipe(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = os.WriteFile(path, []byte(content), 0o600) // waits for the reader
	}()
	t.Cleanup(func() { <-done })
	return path
}

func TestReadOnce(t *testing.T) {
	secret, err := ReadOnce(pipe(t, "a-long-enough-secret\n"))
	if err != nil || secret.Reveal() != "a-long-enough-secret" {
		t.Errorf("got %q, %v", secret.Reveal(), err)
	}
	path := pipe(t, "hunter2\ntwo lines")
	if _, err := ReadOnce(path); err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("two lines: %v", err)
	}
	if _, err := ReadOnce(filepath.Join(t.TempDir(), "nowhere")); err == nil {
		t.Error("a file that is not there was read")
	}
}

func TestReadClient(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t)
	caFile, certFile, keyFile := filepath.Join(dir, "ca"), filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	ca.put(caFile)
	ca.issue("client", certFile, keyFile)
	piped := func(path string) string {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return pipe(t, string(raw))
	}
	conf, err := ReadClient(piped(caFile), piped(certFile), piped(keyFile), zap.NewNop())
	if err != nil || len(conf.Certificates) != 1 || conf.RootCAs == nil {
		t.Errorf("got %+v, %v", conf, err)
	}
	if conf, err := ReadClient("", "", "", zap.NewNop()); err != nil || conf.RootCAs != nil {
		t.Errorf("without files: %v", err)
	}
	if _, err := ReadClient(pipe(t, "nonsense"), "", "", zap.NewNop()); err == nil || !strings.Contains(err.Error(), "holds no certificate") {
		t.Errorf("nonsense: %v", err)
	}
}
