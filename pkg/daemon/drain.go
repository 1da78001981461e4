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

// drainQuiet is the time between two looks at whether connections wait at a draining listener.
// Smaller resets clients that have looked up the socket's name before it was removed; larger delays
// the stop.
const drainQuiet = 10 * time.Millisecond

// Drain removes the socket's name if it is still this listener's. Accept continues until no
// connection waits, at the latest until the end, and then returns net.ErrClosed. Close without Drain
// resets the connections that wait: a connection counts as made for its client, which may have sent
// a request, before it is accepted.
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
	return l.setDeadline()
}

// Accept waits for the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return conn, err
		}
		if !l.continueDrain() {
			return nil, net.ErrClosed
		}
	}
}

// continueDrain reports whether a draining listener accepts further connections: one waits and the
// end is not reached.
func (l *Listener) continueDrain() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.closed && time.Now().Before(l.drainEnd) && readable(l.Listener) && l.setDeadline() == nil
}

// setDeadline ends the current or next Accept after drainQuiet.
func (l *Listener) setDeadline() error {
	ln, ok := l.Listener.(interface{ SetDeadline(t time.Time) error })
	if !ok {
		return errors.ErrUnsupported
	}
	return ln.SetDeadline(time.Now().Add(drainQuiet))
}

// readable reports whether a connection waits at a listener, or data on a connection.
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
	controlErr := raw.Control(func(fd uintptr) {
		for err = unix.EINTR; errors.Is(err, unix.EINTR); {
			n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		}
	})
	return controlErr == nil && err == nil && n > 0
}
