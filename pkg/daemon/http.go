package daemon

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
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
func newHTTPServer(name string, h http.Handler, log *zap.Logger) *http.Server {
	log = log.With(zap.String("server", name))
	errorLog, err := zap.NewStdLogAt(log, zapcore.WarnLevel)
	if err != nil {
		panic(err) // the level is a constant
	}
	return &http.Server{
		Handler:           recovered(h, log),
		ErrorLog:          errorLog,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
	}
}

// recovered logs where a handler has panicked and closes the connection. net/http
// would log the panic's text, which might hold a secret.
func recovered(h http.Handler, log *zap.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			value := recover()
			if value == nil {
				return
			}
			if err, ok := value.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
				p := newPanicked(value)
				log.Error("a request's handler has panicked", zap.String("panic", p.what), zap.String("at", p.stack))
			}
			// Closes the connection: whoever reads a half-written answer must see that it is one.
			panic(http.ErrAbortHandler)
		}()
		h.ServeHTTP(w, r)
	})
}

func serveHTTP(server *http.Server, ln net.Listener) error {
	if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// shutdown waits for requests under way, and cuts them off when the context ends.
func shutdown(ctx context.Context, server *http.Server) error {
	err := server.Shutdown(ctx)
	if err != nil {
		_ = server.Close() // what Shutdown says is told
	}
	return err
}
