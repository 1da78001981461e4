package postgres

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A connection may be dead without a sign of it: its server's machine is lost, or a load
// balancer or NAT between has forgotten it. Then packets vanish. The kernel notices it if it may
// send probes, unless something in the middle answers them; and we notice it by a server that
// sends nothing while an answer is due.
const (
	// silence is how long a server may send nothing while its answer is awaited. Smaller takes slow
	// statements for dead connections; larger delays everything for longer when one is dead.
	silence = 5 * time.Second
	// statementTimeout is the server's own limit for a statement of a mutation: less than silence, so
	// that a slow statement costs the mutation and not the connection.
	statementTimeout = 4500 * time.Millisecond
	// lockTimeout is the server's limit for one wait for the head's lock. Smaller loses the place
	// in the queue more often; it must be less than silence.
	lockTimeout = 2500 * time.Millisecond

	// pingAfter is the idle time after which a connection is pinged before it is used, pingTimeout
	// how long that may take.
	pingAfter   = time.Second
	pingTimeout = time.Second

	// keepAliveIdle, keepAliveInterval and keepAliveCount are of TCP's probes on an idle connection;
	// userTimeout is how long sent data may go unacknowledged (RFC 5482).
	keepAliveIdle     = 2 * time.Second
	keepAliveInterval = time.Second
	keepAliveCount    = 3
	userTimeout       = 4 * time.Second
)

// errSilent is the error of a connection whose server sent nothing for too long. It is a timeout to the
// driver, which drops other errors in places.
var errSilent error = silentError{}

type silentError struct{}

// Error implements error.
func (silentError) Error() string { return "the server sends nothing: the connection is dead" }

// Timeout implements net.Error.
func (silentError) Timeout() bool { return true }

// Temporary implements net.Error.
func (silentError) Temporary() bool { return false }

// connections makes the pool's connections. When one is found dead all that were made before are
// closed, because they probably are, too, and each would cost a caller its time.
type connections struct {
	pool    atomic.Pointer[pgxpool.Pool]
	limited atomic.Bool // by silence; not while the schema is brought up to date, which may take long

	mu    sync.Mutex
	reset time.Time // when they were closed last
}

var dialer = net.Dialer{
	KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval, Count: keepAliveCount},
	Control: func(network, _ string, raw syscall.RawConn) error {
		if network == "unix" {
			return nil
		}
		return setUserTimeout(raw, userTimeout)
	},
}

// dial makes a connection of the pool.
func (c *connections) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := dialer.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &watched{Conn: conn, of: c, born: time.Now()}, nil
}

// lost closes the pool's connections if one that was made at that moment is dead.
func (c *connections) lost(born time.Time) {
	pool := c.pool.Load()
	if pool == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if born.After(c.reset) {
		c.reset = time.Now()
		pool.Reset()
	}
}

// bornKey names in a connection's custom data when it was made.
const bornKey = "born"

// shouldPing pings a connection that was idle. It returns true for one that did not answer and is
// closed now: the pool finds that out and takes another.
func (c *connections) shouldPing(ctx context.Context, p pgxpool.ShouldPingParams) bool {
	if p.IdleDuration < pingAfter {
		return false
	}
	limited, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	err := p.Conn.Ping(limited)
	if err != nil && ctx.Err() == nil {
		born, _ := p.Conn.PgConn().CustomData()[bornKey].(time.Time)
		c.lost(born)
	}
	return err != nil
}

func noteBirth(conn *pgx.Conn) { conn.PgConn().CustomData()[bornKey] = time.Now() }

// watched is a connection that fails when an answer is awaited and nothing comes for too long. The
// driver reads only while it awaits one.
type watched struct {
	net.Conn
	of   *connections
	born time.Time

	mu    sync.Mutex
	until time.Time // the driver's own deadline
	dead  bool      // the driver may read once more
}

// Read implements net.Conn.
func (w *watched) Read(b []byte) (int, error) {
	if !w.of.limited.Load() {
		return w.Conn.Read(b)
	}
	limit := time.Now().Add(silence)
	w.mu.Lock()
	dead, err := w.dead, w.earliest(limit)
	w.mu.Unlock()
	switch {
	case dead:
		return 0, errSilent
	case err != nil:
		return 0, err
	}
	n, err := w.Conn.Read(b)
	if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
		return n, err
	}
	w.mu.Lock()
	w.dead = w.until.IsZero() || limit.Before(w.until)
	dead = w.dead
	w.mu.Unlock()
	if !dead {
		return n, err
	}
	w.of.lost(w.born)
	return n, errSilent
}

// earliest sets as read deadline the earlier of the limit and the driver's deadline.
func (w *watched) earliest(limit time.Time) error {
	if !w.until.IsZero() && w.until.Before(limit) {
		limit = w.until
	}
	return w.Conn.SetReadDeadline(limit)
}

// SetDeadline implements net.Conn.
func (w *watched) SetDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.until = t
	return w.Conn.SetDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (w *watched) SetReadDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.until = t
	return w.Conn.SetReadDeadline(t)
}
