package daemon

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// arrivals are the connections of an HTTP server on which a request may be under way to
// the handler. net/http drops, without an answer, a request that it has read when its
// Shutdown has begun: so a stop waits first until all have arrived.
type arrivals struct {
	mu      sync.Mutex
	pending map[net.Conn]struct{}
	fewer   chan struct{} // has room for one
}

// arrivingOf makes a server tell of its arrivals. From draining on its answers end their
// connections, so that clients who are busy do not send on one that is just being closed.
func arrivingOf(server *http.Server, draining <-chan struct{}) *arrivals {
	a := &arrivals{pending: make(map[net.Conn]struct{}), fewer: make(chan struct{}, 1)}
	type key struct{}
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, key{}, conn)
	}
	server.ConnState = func(conn net.Conn, state http.ConnState) {
		a.set(conn, state == http.StateNew || state == http.StateActive)
	}
	next := server.Handler
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if conn, ok := r.Context().Value(key{}).(net.Conn); ok {
			a.set(conn, false)
		}
		if isClosed(draining) {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
	return a
}

func (a *arrivals) set(conn net.Conn, pending bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if pending {
		a.pending[conn] = struct{}{}
		return
	}
	delete(a.pending, conn)
	select {
	case a.fewer <- struct{}{}:
	default:
	}
}

func (a *arrivals) none() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.pending) == 0
}

// wait returns when no request is under way to the handler, at the latest at the end:
// somebody may connect and never ask.
func (a *arrivals) wait(ctx context.Context, end time.Time) {
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	for !a.none() {
		select {
		case <-a.fewer:
		case <-ctx.Done():
			return
		}
	}
}
