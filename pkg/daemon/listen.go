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

// Listener is a bound address. A Unix socket has a private name until Publish, and Close removes its
// path only if the path is still its own: a successor that has renamed its socket over the path
// keeps it.
type Listener struct {
	net.Listener

	path    string // of the Unix socket, "" for TCP
	private string // name until it is published
	own     os.FileInfo

	mu        sync.Mutex
	published bool
	closed    bool
	drainEnd  time.Time // of Drain; zero until it begins
}

const (
	// MaxSocketPath is the longest path of a Unix socket in bytes. It is Linux's limit: sun_path has
	// 108 bytes, the last of which is 0.
	MaxSocketPath = 107
	// socketMode allows the owner and the group to connect: Envoy runs as another user of the same
	// group.
	socketMode = 0o660
	// privateLen is the length of a private name. Larger shortens the paths that can be bound; smaller
	// makes collisions likely.
	privateLen = 8
)

// Listen binds a TCP or Unix address. Connections are queued from now on, but a Unix socket has its
// name only after Publish. Errors name the field of the configuration that gives the address.
func Listen(ctx context.Context, field string, addr net.Addr) (*Listener, error) {
	bind := bindTCP
	if addr.Network() == "unix" {
		bind = bindUnix
	}
	l, err := bind(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("%s: listen on %s: %w", field, addr, err)
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
		return nil, fmt.Errorf("missing folder %s", folder)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() != fs.ModeSocket {
		return nil, errors.New("the path is taken by a file that is not a socket")
	}
	private := filepath.Join(folder, "."+rand.Text()[:privateLen-1])
	if len(path) > MaxSocketPath || len(private) > MaxSocketPath {
		return nil, fmt.Errorf("the path is invalid: must have at most %d bytes, and its folder at most %d",
			MaxSocketPath, MaxSocketPath-privateLen-1)
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "unix", private)
	if err != nil {
		return nil, cause(err)
	}
	if unix, ok := ln.(*net.UnixListener); ok {
		unix.SetUnlinkOnClose(false) // would remove the socket of a successor
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

// cause returns the reason of a failed bind without the address.
func cause(err error) error {
	var errno syscall.Errno
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return errors.New("the address is in use by another program")
	case errors.As(err, &errno):
		return errno
	}
	return err
}

// Addr returns the address that clients use.
func (l *Listener) Addr() net.Addr {
	if l.path != "" {
		return &net.UnixAddr{Net: "unix", Name: l.path}
	}
	return l.Listener.Addr()
}

// Publish renames a Unix socket over its path: each later connection reaches this listener, and none
// fails in between. For TCP it does nothing.
func (l *Listener) Publish() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.published || l.closed {
		return nil
	}
	defer lockForPublish(l.path)()
	if err := os.Rename(l.private, l.path); err != nil {
		return fmt.Errorf("publish socket %s: %w", l.path, cause(err))
	}
	l.published = true
	return nil
}

const (
	// publishWait is how long Publish waits for the folder's lock. Larger delays the start while
	// another program holds the lock; smaller than a withdrawal takes, some system calls, makes
	// Publish go on without the lock.
	publishWait = 100 * time.Millisecond
	// publishPause is the time between two attempts to take the lock. Larger delays the start;
	// smaller costs processor time.
	publishPause = 2 * time.Millisecond
)

// lockForPublish takes the folder's lock, so that a process that withdraws its own socket does not
// remove the one that is being published. It continues without the lock after publishWait, because every
// program that can read the folder can hold the lock, and in a folder that can be written but not
// read. The rename itself is atomic.
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

// Close stops listening and removes the socket's name if it is still this listener's.
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

// withdraw removes the socket's name if it is still this listener's. A successor could publish between
// the check and the removal, so both hold the folder's lock. If the lock is taken, another process is
// publishing, and a name that is left behind does no harm.
func (l *Listener) withdraw() {
	unlock, err := lockFolder(l.path, syscall.LOCK_EX|syscall.LOCK_NB)
	if err != nil {
		return
	}
	defer unlock()
	if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.own) {
		_ = os.Remove(l.path) // a socket that stays does no harm
	}
}

// lockFolder takes the advisory lock of the folder of a path.
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
	return func() { _ = folder.Close() }, nil // releases the lock
}
