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
// Shutdown has begun, and closes a connection that stands idle though a request has come
// in on it: so a stop waits first until all have arrived.
type arrivals struct {
	mu      sync.Mutex
	conns   map[net.Conn]http.ConnState // but those whose request the handler has
	changed chan struct{}               // has room for one
}

// arrivingOf makes a server tell of its arrivals. From draining on its answers end their
// connections, so that clients who are busy do not send on one that is just being closed.
func arrivingOf(server *http.Server, draining <-chan struct{}) *arrivals {
	a := &arrivals{conns: make(map[net.Conn]http.ConnState), changed: make(chan struct{}, 1)}
	type key struct{}
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, key{}, conn)
	}
	server.ConnState = a.set
	next := server.Handler
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if conn, ok := r.Context().Value(key{}).(net.Conn); ok {
			a.set(conn, arrived)
		}
		if isClosed(draining) {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
	return a
}

// arrived is what a connection is when the handler has its request.
const arrived = http.StateClosed

func (a *arrivals) set(conn net.Conn, state http.ConnState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch state {
	case http.StateNew, http.StateActive, http.StateIdle:
		a.conns[conn] = state
	case http.StateHijacked, http.StateClosed:
		delete(a.conns, conn)
	}
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

func (a *arrivals) none() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for conn, state := range a.conns {
		if state != http.StateIdle || readable(conn) {
			return false
		}
	}
	return true
}

// wait returns when no request is under way to the handler, at the latest at the end:
// somebody may connect and never ask.
func (a *arrivals) wait(ctx context.Context, end time.Time) {
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	for !a.none() {
		select {
		case <-a.changed:
		case <-ctx.Done():
			return
		}
	}
}
