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

// A connection may be dead without any error: the server's machine is lost, or a load balancer or NAT in between has dropped
// it, and packets vanish. The kernel detects this by probes, unless a middlebox answers them. This package detects it when the
// server sends nothing while an answer is due.
const (
	// silence is how long a server may send nothing while an answer is due. Smaller takes slow statements for dead
	// connections; larger delays every call for longer when a connection is dead.
	silence = 5 * time.Second
	// statementTimeout is the server's limit for a statement of a mutation. Larger than silence, a slow statement would cost
	// the connection and not only the mutation; smaller fails more mutations on a slow server.
	statementTimeout = 4500 * time.Millisecond
	// lockTimeout is the server's limit for one wait for the head's lock. Smaller loses the place in the queue more often;
	// larger than silence takes the wait for a dead connection.
	lockTimeout = 2500 * time.Millisecond

	// pingAfter is the idle time after which a connection is pinged before it is used. Smaller costs a round trip more often;
	// larger uses dead connections more often, each of which costs the time of silence.
	pingAfter = time.Second
	// pingTimeout is how long the ping may take. Smaller drops good connections on a slow network; larger delays the call for
	// longer when the connection is dead.
	pingTimeout = time.Second

	// TCP probes on an idle connection. Smaller sends more packets; larger detects a lost machine later.
	keepAliveIdle     = 2 * time.Second
	keepAliveInterval = time.Second
	keepAliveCount    = 3
	// userTimeout is how long sent data may go unacknowledged (RFC 5482). Smaller ends connections on a network that drops
	// packets for a moment; larger detects a lost machine later.
	userTimeout = 4 * time.Second
)

// errSilent is the error of a connection whose server sent nothing for too long. It is a timeout, because pgx discards other
// errors in places.
var errSilent error = silentError{}

type silentError struct{}

// Error implements error.
func (silentError) Error() string { return "connection is dead: the server sends nothing" }

// Timeout implements net.Error.
func (silentError) Timeout() bool { return true }

// Temporary implements net.Error.
func (silentError) Temporary() bool { return false }

// connections makes the pool's connections. When one is dead it closes all that were made before, because they are probably
// dead too, and each would delay a caller.
type connections struct {
	pool    atomic.Pointer[pgxpool.Pool]
	limited atomic.Bool // by silence; not during schema migration, which may take long

	mu    sync.Mutex
	reset time.Time // when the pool was last closed
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
	return &watched{Conn: conn, of: c, made: time.Now()}, nil
}

// closePool closes the pool's connections because one that was made at that moment is dead.
func (c *connections) closePool(made time.Time) {
	pool := c.pool.Load()
	if pool == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if made.After(c.reset) {
		c.reset = time.Now()
		pool.Reset()
	}
}

// madeKey is the key of a connection's custom data for the time when it was made.
const madeKey = "made"

// shouldPing pings a connection that was idle. It returns true for one that did not answer and is closed now; the pool then
// pings it too, and takes another connection.
func (c *connections) shouldPing(ctx context.Context, p pgxpool.ShouldPingParams) bool {
	if p.IdleDuration < pingAfter {
		return false
	}
	limited, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	err := p.Conn.Ping(limited)
	if err != nil && ctx.Err() == nil {
		made, _ := p.Conn.PgConn().CustomData()[madeKey].(time.Time)
		c.closePool(made)
	}
	return err != nil
}

func noteMade(conn *pgx.Conn) { conn.PgConn().CustomData()[madeKey] = time.Now() }

// watched is a connection that fails when the server sends nothing for too long while an answer is due. pgx reads only then.
type watched struct {
	net.Conn
	of   *connections
	made time.Time

	mu    sync.Mutex
	until time.Time // deadline of pgx
	dead  bool      // pgx may read once more
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
	w.of.closePool(w.made)
	return n, errSilent
}

// earliest sets the read deadline to the earlier one of the limit and the deadline of pgx.
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
