package daemon

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// shortDir returns a folder whose name is short enough for a socket path.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "d")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func unixAddr(path string) net.Addr { return &net.UnixAddr{Net: "unix", Name: path} }

func listenUnix(t *testing.T, path string) *Listener {
	t.Helper()
	l, err := Listen(context.Background(), "listen.check", unixAddr(path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// acceptedBy returns the name of the listener that accepts a new connection to the path.
func acceptedBy(t *testing.T, path string, all map[string]*Listener) string {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(context.Background(), "unix", path)
	if err != nil {
		return "none"
	}
	defer func() { _ = conn.Close() }()
	accepted := make(chan string, len(all))
	for name, l := range all {
		go func() {
			if got, err := l.Accept(); err == nil {
				_ = got.Close()
				accepted <- name
			}
		}()
	}
	name := <-accepted
	for _, l := range all { // ends the other Accepts
		if unix, ok := l.Listener.(*net.UnixListener); ok {
			_ = unix.Close()
		}
	}
	return name
}

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

func publish(t *testing.T, l *Listener) {
	t.Helper()
	if err := l.Publish(); err != nil {
		t.Fatal(err)
	}
}

func TestTakeover(t *testing.T) {
	defer goleak.VerifyNone(t)
	dir := shortDir(t)
	path := filepath.Join(dir, "s")
	old := listenUnix(t, path)
	if got := names(t, dir); got == "s" || got == "" {
		t.Errorf("before Publish the folder has %q", got)
	}
	publish(t, old)
	if info, err := os.Stat(path); err != nil || info.Mode() != fs.ModeSocket|socketMode {
		t.Errorf("got %v and %v", info.Mode(), err)
	}
	successor := listenUnix(t, path)
	publish(t, successor)
	if err := old.Close(); err != nil {
		t.Error(err)
	}
	if got := names(t, dir); got != "s" {
		t.Errorf("after the takeover the folder has %q", got)
	}
	if got := acceptedBy(t, path, map[string]*Listener{"successor": successor}); got != "successor" {
		t.Errorf("accepted by %s", got)
	}
	if err := successor.Close(); !errors.Is(err, net.ErrClosed) { // acceptedBy has closed the socket
		t.Error(err)
	}
	if got := names(t, dir); got != "" {
		t.Errorf("after Close the folder has %q", got)
	}
}

// TestUnpublishedListener: a listener that is closed before Publish takes nothing from a running one.
func TestUnpublishedListener(t *testing.T) {
	defer goleak.VerifyNone(t)
	dir := shortDir(t)
	path := filepath.Join(dir, "s")
	running := listenUnix(t, path)
	publish(t, running)
	failed := listenUnix(t, path)
	if got := acceptedBy(t, path, map[string]*Listener{"running": running, "failed": failed}); got != "running" {
		t.Errorf("accepted by %s", got)
	}
	_ = failed.Close() // acceptedBy has closed the socket
	if got := names(t, dir); got != "s" {
		t.Errorf("the folder has %q", got)
	}
}

// TestSocketOfKilledProcess: the socket of a killed process does not prevent a new one.
func TestSocketOfKilledProcess(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	killed := listenUnix(t, path)
	publish(t, killed)
	if err := killed.Listener.Close(); err != nil { // as the kernel does, which keeps the path
		t.Fatal(err)
	}
	if got := acceptedBy(t, path, nil); got != "none" {
		t.Errorf("accepted by %s", got)
	}
	next := listenUnix(t, path)
	publish(t, next)
	if got := acceptedBy(t, path, map[string]*Listener{"next": next}); got != "next" {
		t.Errorf("accepted by %s", got)
	}
}

func TestCloseTwice(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	l := listenUnix(t, path)
	if err := errors.Join(l.Close(), l.Close(), l.Publish()); err != nil {
		t.Error(err)
	}
	if got := names(t, filepath.Dir(path)); got != "" {
		t.Errorf("the folder has %q", got)
	}
}

func TestListenErrors(t *testing.T) {
	dir := shortDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	deep := filepath.Join(dir, strings.Repeat("d", MaxSocketPath-len(dir)-2))
	if err := os.Mkdir(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	busy, err := Listen(context.Background(), "listen.admin", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = busy.Close() }()
	for _, c := range []struct {
		addr net.Addr
		want string
	}{
		{unixAddr(filepath.Join(dir, "nowhere", "s")), "missing folder " + filepath.Join(dir, "nowhere")},
		{unixAddr(filepath.Join(file, "s")), "missing folder " + file},
		{unixAddr(file), "the path is taken by a file that is not a socket"},
		{unixAddr(dir), "the path is taken by a file that is not a socket"},
		{unixAddr(filepath.Join(deep, "s")), "the path is invalid: must have at most 107 bytes, and its folder at most 98"},
		{unixAddr(filepath.Join(dir, strings.Repeat("s", 107))), "the path is invalid: must have at most 107 bytes, and its folder at most 98"},
		{busy.Addr(), "the address is in use by another program"},
	} {
		l, err := Listen(context.Background(), "listen.check", c.addr)
		if want := "listen.check: listen on " + c.addr.String() + ": " + c.want; err == nil || err.Error() != want {
			t.Errorf("got %v and %v, want %s", l, err, want)
		}
	}
	if got := names(t, dir); got != filepath.Base(deep)+" file" {
		t.Errorf("the folder has %q", got)
	}
}

// TestCloseWhileLocked: Close keeps the path while another process holds the folder's lock.
func TestCloseWhileLocked(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	l := listenUnix(t, path)
	publish(t, l)
	unlock, err := lockFolder(path, syscall.LOCK_EX)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Error("removed the path without the lock")
	}
}

// TestPublishWithoutLock: Publish succeeds while another program keeps the folder's lock.
func TestPublishWithoutLock(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	unlock, err := lockFolder(path, syscall.LOCK_EX)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	l := listenUnix(t, path)
	published := make(chan error, 1)
	go func() { published <- l.Publish() }()
	select {
	case err = <-published:
	case <-time.After(10 * time.Second):
		t.Fatal("Publish waits for the lock of another program")
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := acceptedBy(t, path, map[string]*Listener{"published": l}); got != "published" {
		t.Errorf("accepted by %s", got)
	}
}

// loopbacks returns the loopback addresses of this machine, which may have no IPv6.
func loopbacks(t *testing.T) []string {
	t.Helper()
	probe, err := new(net.ListenConfig).Listen(t.Context(), "tcp6", "[::1]:0")
	if err != nil {
		return []string{"127.0.0.1"}
	}
	_ = probe.Close()
	return []string{"127.0.0.1", "::1"}
}

// TestWildcardAcceptsBothFamilies: a listener on the wildcard address of either family accepts
// connections of both.
func TestWildcardAcceptsBothFamilies(t *testing.T) {
	for _, host := range []string{"::", "0.0.0.0"} {
		l, err := Listen(t.Context(), "listen.check", namedAddr(net.JoinHostPort(host, "0")))
		if err != nil {
			t.Fatal(err)
		}
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		for _, from := range loopbacks(t) {
			conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", net.JoinHostPort(from, port))
			if err != nil {
				t.Errorf("%s does not accept from %s: %v", host, from, err)
				continue
			}
			_ = conn.Close()
		}
		_ = l.Close()
	}
}
