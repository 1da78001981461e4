package daemon

import (
	"context"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus/promhttp"
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
		ErrorLog:          rt.libraryLog("metrics"),
		Registry:          rt.Metrics,
		EnableOpenMetrics: true,
	}))
	profiles := http.NewServeMux()
	profiles.HandleFunc("GET /debug/pprof/", pprof.Index)
	profiles.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	profiles.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	profiles.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	profiles.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
	profiles.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.Handle("/debug/pprof/", local(profiles))
	return mux
}

// local lets through who asks from this machine. Where probes and scrapers come over the
// network, profiles stay here: they tell much, and taking one costs much.
func local(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A Unix socket's peer has no address, and its file's mode is its guard.
		if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil && !peer.Addr().Unmap().IsLoopback() {
			http.Error(w, "profiles are for this machine only", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
