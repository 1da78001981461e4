package daemon

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// drainQuiet is how long nobody must have come before a draining listener is taken to be
// empty: somebody may have looked its name up just before it was removed.
const drainQuiet = 10 * time.Millisecond

// Drain takes the socket's name away if it is still this listener's, and lets Accept go
// on until nobody is left who waits for it, at the latest until the end; then Accept returns
// net.ErrClosed. A Close without it resets those who wait: a connection counts as made for
// its client, who may have sent a request, before anybody has accepted it.
func (l *Listener) Drain(end time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	if l.path != "" {
		l.withdraw()
	}
	l.drainEnd = end
	return l.untilQuiet()
}

// untilQuiet gives the next Accept of a draining listener, or the one that is waiting,
// its deadline.
func (l *Listener) untilQuiet() error {
	deadline := time.Now().Add(drainQuiet)
	if deadline.After(l.drainEnd) {
		deadline = l.drainEnd
	}
	if ln, ok := l.Listener.(interface{ SetDeadline(t time.Time) error }); ok {
		return ln.SetDeadline(deadline)
	}
	return errors.ErrUnsupported
}

// Accept waits for the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		over, err := l.draining()
		if err != nil {
			return nil, err
		}
		conn, err := l.Listener.Accept()
		switch {
		case !errors.Is(err, os.ErrDeadlineExceeded): // which only Drain sets
			return conn, err
		case over || !readable(l.Listener):
			return nil, net.ErrClosed
		}
		// On a busy machine the deadline was over before Accept could look.
	}
}

// draining prepares the next Accept, and tells whether it is the last of a drain.
func (l *Listener) draining() (over bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.drainEnd.IsZero() || l.closed {
		return false, nil
	}
	return !time.Now().Before(l.drainEnd), l.untilQuiet()
}

// readable tells whether a connection has come to a listener, or something on a
// connection, that nobody has taken yet.
func readable(from any) bool {
	if secure, ok := from.(*tls.Conn); ok {
		from = secure.NetConn()
	}
	socket, ok := from.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	n := 0
	closed := raw.Control(func(fd uintptr) {
		for err = unix.EINTR; errors.Is(err, unix.EINTR); {
			n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		}
	})
	return closed == nil && err == nil && n > 0
}
