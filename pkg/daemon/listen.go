package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Listener is a bound address. One of a Unix socket has a private name until
// Publish, and gives up its path on Close only if the path is still its own: a
// successor that has renamed its socket over the path keeps it.
type Listener struct {
	net.Listener

	path    string // of the Unix socket, "" for TCP
	private string // its name until it is published
	own     os.FileInfo

	mu        sync.Mutex
	published bool
	closed    bool
	drainEnd  time.Time // of Drain; zero until it begins
}

const (
	// socketMode lets the owner and the group connect: Envoy runs as another user of
	// the same group.
	socketMode = 0o660
	// MaxSocketPath is the longest path of a Unix socket in bytes. It is Linux's limit: sun_path has
	// 108 bytes, the last of which is 0.
	MaxSocketPath = 107
	// privateLen is the length of a private name.
	privateLen = 8
)

// Listen binds an address, tcp or unix. Connections are taken from now on, but a Unix
// socket has its name only after Publish. Errors name the field of the
// configuration that gives the address.
func Listen(ctx context.Context, field string, addr net.Addr) (*Listener, error) {
	bind := bindTCP
	if addr.Network() == "unix" {
		bind = bindUnix
	}
	l, err := bind(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("%s: cannot listen on %s: %w", field, addr, err)
	}
	return l, nil
}

func bindTCP(ctx context.Context, addr net.Addr) (*Listener, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", addr.String())
	if err != nil {
		return nil, cause(err)
	}
	return &Listener{Listener: ln, published: true}, nil
}

func bindUnix(ctx context.Context, addr net.Addr) (*Listener, error) {
	path := addr.String()
	folder := filepath.Dir(path)
	if info, err := os.Stat(folder); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("there is no folder %s", folder)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() != fs.ModeSocket {
		return nil, errors.New("a file that is not a socket has this name, and is left alone")
	}
	private := filepath.Join(folder, "."+rand.Text()[:privateLen-1])
	if len(path) > MaxSocketPath || len(private) > MaxSocketPath {
		return nil, fmt.Errorf("the path is too long: a folder's name may have %d bytes, a socket's %d with its folder",
			MaxSocketPath-privateLen-1, MaxSocketPath)
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "unix", private)
	if err != nil {
		return nil, cause(err)
	}
	if unix, ok := ln.(*net.UnixListener); ok {
		unix.SetUnlinkOnClose(false) // it would unlink whatever has the name by then
	}
	l := &Listener{Listener: ln, path: path, private: private}
	err = os.Chmod(private, socketMode)
	if err == nil {
		l.own, err = os.Lstat(private)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// cause leaves the reason of a failed bind: the address has been named before.
func cause(err error) error {
	var errno syscall.Errno
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return errors.New("another program listens there")
	case errors.As(err, &errno):
		return errno
	}
	return err
}

// Addr returns the address that clients know.
func (l *Listener) Addr() net.Addr {
	if l.path != "" {
		return &net.UnixAddr{Net: "unix", Name: l.path}
	}
	return l.Listener.Addr()
}

// Publish renames a Unix socket over its path: whoever connects from now on
// reaches this listener, without a moment in between. For TCP it does nothing.
func (l *Listener) Publish() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.published || l.closed {
		return nil
	}
	defer lockForPublish(l.path)()
	if err := os.Rename(l.private, l.path); err != nil {
		return fmt.Errorf("cannot publish the socket %s: %w", l.path, err)
	}
	l.published = true
	return nil
}

const (
	// publishWait is how long Publish waits for the folder's lock. Larger delays the start
	// when another program holds the lock; a process that withdraws its socket needs it
	// for some system calls only.
	publishWait = 100 * time.Millisecond
	// publishPause is the time between two attempts to take it. Larger delays the start.
	publishPause = 2 * time.Millisecond
)

// lockForPublish takes the folder's lock, so that no process that withdraws its own
// socket removes the one that is being published. It goes on without the lock after
// publishWait, since everybody who can read the folder can hold it, and where the folder
// may be written but not read: the rename itself is atomic.
func lockForPublish(path string) (unlock func()) {
	for end := time.Now().Add(publishWait); ; <-time.After(publishPause) {
		unlock, err := lockFolder(path, syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return unlock
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(end) {
			return func() {}
		}
	}
}

// Close ends listening and removes the socket's name if it is still this listener's.
func (l *Listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	if l.path == "" {
		return l.Listener.Close()
	}
	if !l.published {
		return errors.Join(l.Listener.Close(), os.Remove(l.private))
	}
	l.withdraw()
	return l.Listener.Close()
}

// withdraw removes the socket's name. Between the look and the removal a successor
// could publish, so both happen under the folder's lock; if it is taken somebody
// is publishing now, and a name that is left behind is no obstacle to anyone.
func (l *Listener) withdraw() {
	unlock, err := lockFolder(l.path, syscall.LOCK_EX|syscall.LOCK_NB)
	if err != nil {
		return
	}
	defer unlock()
	if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.own) {
		_ = os.Remove(l.path) // what cannot be removed is no obstacle either
	}
}

// lockFolder takes the advisory lock of the folder that a path is in.
func lockFolder(path string, how int) (unlock func(), err error) {
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	for err = syscall.EINTR; errors.Is(err, syscall.EINTR); {
		err = syscall.Flock(int(folder.Fd()), how)
	}
	if err != nil {
		_ = folder.Close() // read only
		return nil, err
	}
	return func() { _ = folder.Close() }, nil // which gives the lock up
}
