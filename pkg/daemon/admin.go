package daemon

import (
	"context"
	"net"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

// startAdmin adds the admin listener: the first to start and the last to stop.
func (rt *Runtime) startAdmin(addr net.Addr) error {
	ln, err := rt.Listen("listen.admin", addr)
	if err != nil {
		return err
	}
	server := newHTTPServer("admin", rt.adminHandler(), rt.Log)
	rt.Add(Component{
		Name: "admin",
		Run:  func(context.Context) error { return serveHTTP(server, ln) },
		// At once: a profile that somebody is taking must not hold up the stop.
		Stop: func(context.Context) error { return server.Close() },
	})
	return nil
}

// adminHandler is a mux of its own: what some library adds to the default one
// must not show up here.
func (rt *Runtime) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", alive)
	mux.Handle("GET /readyz", rt.ready)
	mux.Handle("GET /metrics", promhttp.HandlerFor(rt.Metrics, promhttp.HandlerOpts{
		ErrorLog:          zap.NewStdLog(rt.Log),
		Registry:          rt.Metrics,
		EnableOpenMetrics: true,
	}))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}
