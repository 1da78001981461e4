package daemon

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"go.uber.org/zap"
)

// Limits of HTTP servers.
const (
	// A client that has begun a request sends its headers at once.
	readHeaderTimeout = 5 * time.Second
	// A whole request, its body included; it goes on running while the request is answered, so
	// it must be longer than the longest long poll, which is a minute.
	readTimeout = 2 * time.Minute
	// Longer than any client of ours keeps an idle connection, so that the client is who closes it.
	idleTimeout    = 3 * time.Minute
	maxHeaderBytes = 64 << 10
)

// newHTTPServer makes a server without a limit for writing: that would end long polls.
func (rt *Runtime) newHTTPServer(name string, h http.Handler) *http.Server {
	return &http.Server{
		Handler:           recovered(h, rt.Log.With(zap.String("server", name)), rt.CountPanic(name)),
		ErrorLog:          rt.libraryLog("http." + name),
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
	}
}

// recovered counts panics of a handler, logs where it has panicked and closes the
// connection. net/http would log the panic's text, which might hold a secret.
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
				log.Error("a request's handler has panicked", zap.String("panic", p.what), zap.String("at", p.stack))
			}
			// Closes the connection: whoever reads a half-written answer must see that it is one.
			panic(http.ErrAbortHandler)
		}()
		h.ServeHTTP(w, r)
	})
}

// serveHTTP answers until the server is shut down or its listener drained.
func serveHTTP(server *http.Server, ln net.Listener) error {
	err := server.Serve(ln)
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// service is an HTTP server that ends without losing a request.
type service struct {
	server   *http.Server
	ln       *Listener
	arriving *arrivals
	served   chan struct{} // closed when nobody is let in any more
}

func (s *service) run(ln net.Listener) error {
	defer close(s.served)
	return serveHTTP(s.server, ln)
}

// arrivalShare of a stop's time is the most that it waits for requests to arrive.
const arrivalShare = 10

// stop lets in who has connected already, waits for requests under way, and cuts them
// off when the context ends.
func (s *service) stop(ctx context.Context) error {
	end, _ := ctx.Deadline()
	end = time.Now().Add(time.Until(end) / arrivalShare)
	if s.ln.Drain(end) == nil { // else who waits is reset
		select {
		case <-s.served:
		case <-ctx.Done():
		}
	}
	s.arriving.wait(ctx, end)
	err := s.server.Shutdown(ctx)
	if err != nil {
		_ = s.server.Close() // what Shutdown says is told
	}
	return err
}
