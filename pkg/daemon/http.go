package daemon

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	// readHeaderTimeout is the time limit of a request's headers. Larger keeps connections of clients
	// that send nothing; smaller rejects clients on slow links.
	readHeaderTimeout = 5 * time.Second
	// readTimeout is the time limit of a request with its body. It continues while the request is
	// answered, so less than the longest long poll, a minute, ends long polls.
	readTimeout = 2 * time.Minute
	// idleTimeout is how long an idle connection stays open. Less than the idle timeout of clients
	// makes the server close connections on which a client is about to send.
	idleTimeout = 3 * time.Minute
	// maxHeaderBytes is the size of a request's headers. Larger costs memory for each connection;
	// smaller rejects requests with large headers.
	maxHeaderBytes = 64 << 10
)

// newHTTPServer makes a server without a write timeout, which would end long polls.
func (rt *Runtime) newHTTPServer(name string, h http.Handler) *http.Server {
	return &http.Server{
		Handler:           recovered(h, rt.Log.With(zap.String("server", name)), rt.Panics(name).Inc),
		ErrorLog:          rt.libraryLog("http." + name),
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
	}
}

// recovered counts panics of a handler, logs their place and closes the connection. net/http would
// log the text of the panic, which might hold a secret.
func recovered(h http.Handler, log *zap.Logger, count func()) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			value := recover()
			if value == nil {
				return
			}
			if err, ok := value.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
				count()
				p := newPanicked(value)
				log.Error("request handler panicked", zap.String("panic", p.what), zap.String("at", p.stack))
			}
			// Closes the connection, so that the client notices an incomplete answer.
			panic(http.ErrAbortHandler)
		}()
		h.ServeHTTP(w, r)
	})
}

// serveHTTP serves until the server is shut down or its listener is drained.
func serveHTTP(server *http.Server, ln net.Listener) error {
	err := server.Serve(ln)
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// httpServer is an HTTP server that drains before it shuts down. Shutdown alone resets connections
// that are not accepted yet, and closes without an answer those whose request it has just read. A
// client cannot repeat that request unless it is idempotent.
type httpServer struct {
	*http.Server
	ln     *Listener
	served chan struct{} // closed when the server accepts no more connections

	mu    sync.Mutex
	conns map[net.Conn]http.ConnState // open connections
}

// newDrainingServer makes a server on the listener. Its answers end their connections once
// draining is closed.
func newDrainingServer(server *http.Server, ln *Listener, draining <-chan struct{}) *httpServer {
	s := &httpServer{Server: server, ln: ln, served: make(chan struct{}), conns: map[net.Conn]http.ConnState{}}
	server.ConnState = s.note
	next := server.Handler
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isClosed(draining) {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
	return s
}

func (s *httpServer) note(conn net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state == http.StateHijacked || state == http.StateClosed {
		delete(s.conns, conn)
		return
	}
	s.conns[conn] = state
}

// busy reports whether a connection has a request, also one that nothing has read yet, or is new
// and may get one.
func (s *httpServer) busy(countNew bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn, state := range s.conns {
		if state == http.StateActive || countNew && state == http.StateNew || state == http.StateIdle && readable(conn) {
			return true
		}
	}
	return false
}

func (s *httpServer) run(ln net.Listener) error {
	defer close(s.served)
	return serveHTTP(s.Server, ln)
}

const (
	// arrivalShare is the part of a stop's time in which connections are still accepted, and again
	// the part in which their first request is awaited. A larger divisor loses requests of slow
	// clients; a smaller one lets clients that send nothing delay the stop.
	arrivalShare = 10
	// busyInterval is the time between two looks at the connections. Larger delays the stop; smaller
	// costs processor time.
	busyInterval = 5 * time.Millisecond
)

// stop accepts the connections that clients have made, waits until their requests are answered,
// and closes them when the context ends.
func (s *httpServer) stop(ctx context.Context) error {
	end, _ := ctx.Deadline()
	share := time.Until(end) / arrivalShare
	if s.ln.Drain(time.Now().Add(share)) == nil {
		select {
		case <-s.served:
		case <-ctx.Done():
		}
	}
	for newUntil := time.Now().Add(share); ctx.Err() == nil && s.busy(time.Now().Before(newUntil)); {
		<-time.After(busyInterval)
	}
	err := s.Shutdown(ctx)
	if err != nil {
		_ = s.Close() // the error of Shutdown is returned
	}
	return err
}
