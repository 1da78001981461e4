package daemon

import (
	"context"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// startAdmin adds the admin listener: the first to start and the last to stop.
func (rt *Runtime) startAdmin(addr net.Addr) error {
	ln, err := rt.Listen("listen.admin", addr)
	if err != nil {
		return err
	}
	server := rt.newHTTPServer("admin", rt.adminHandler())
	rt.Add(Component{
		Name: "admin",
		Run:  func(context.Context) error { return serveHTTP(server, ln) },
		// Not Shutdown: a profile in flight must not delay the stop.
		Stop: func(context.Context) error { return server.Close() },
	})
	return nil
}

// adminHandler does not use the default mux, to which any library can add handlers.
func (rt *Runtime) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", alive)
	mux.Handle("GET /readyz", rt.ready)
	mux.Handle("GET /metrics", promhttp.HandlerFor(rt.Metrics, promhttp.HandlerOpts{
		ErrorLog:          rt.libraryLog("metrics"),
		Registry:          rt.Metrics,
		EnableOpenMetrics: true,
	}))
	debug := http.NewServeMux()
	debug.HandleFunc("GET /debug/pprof/", pprof.Index)
	debug.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	debug.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	debug.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	debug.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
	debug.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	debug.Handle("GET /debug/log-level", rt.level)
	debug.HandleFunc("PUT /debug/log-level", rt.setLogLevel)
	debug.Handle("/debug/", rt.debug)
	mux.Handle("/debug/", localOnly(debug))
	return mux
}

// maxLevelBody is the size of a request for another log level. Larger only costs memory.
const maxLevelBody = 1 << 10

// setLogLevel sets the log's level until the next reload: {"level":"debug"}, as zap.AtomicLevel accepts
// and answers it.
func (rt *Runtime) setLogLevel(w http.ResponseWriter, r *http.Request) {
	before := rt.level.Level()
	r.Body = http.MaxBytesReader(w, r.Body, maxLevelBody)
	rt.level.ServeHTTP(w, r)
	if after := rt.level.Level(); after > zapcore.ErrorLevel {
		rt.level.SetLevel(zapcore.ErrorLevel) // errors are always logged
	} else if after != before {
		rt.Log.Warn("log level changed until the next reload", zap.Stringer("before", before), zap.Stringer("after", after))
	}
}

// localOnly rejects requests from other machines. Profiles and explanations reveal internals and cost
// processor time, and a log level hides or adds lines, so they stay local where the admin listener is
// open to probes and scrapers.
func localOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A peer on a Unix socket has no address; the mode of the socket restricts access.
		if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil && !peer.Addr().Unmap().IsLoopback() {
			http.Error(w, "available only on this machine", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
