package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/phantomrouter/phantom-authz/pkg/config"
	"github.com/phantomrouter/phantom-authz/pkg/daemon"
	"github.com/phantomrouter/phantom-authz/pkg/keyserver"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/secretfile"
	"github.com/phantomrouter/phantom-authz/pkg/tracing"
)

// metricsPrefix begins the names of keyd's metrics.
const metricsPrefix = "phantom_keyd"

var program = daemon.Program[*config.Keyd]{
	Name:    "keyd",
	Metrics: metricsPrefix,
	Summary: "is the key API server: accounts, API keys and sessions for authzd, operators and owners.",
	Load:    config.LoadKeyd,
	Check:   config.CheckKeyd,
	Admin:   func(path string) (net.Addr, error) { return config.KeydAdmin(path) },
	Print:   config.Print[config.Keyd],
	Schema:  config.Schema[config.Keyd],
	Settings: func(cfg *config.Keyd) daemon.Settings {
		return daemon.Settings{Admin: cfg.Listen.Admin, Drain: cfg.Drain.Duration, LogLevel: cfg.Log.Level}
	},
	NeedsRestart: config.NeedsRestart[config.Keyd],
	Start:        start,
	Actions: []daemon.Action[*config.Keyd]{{
		Flag: "new-epoch",
		Help: "begin a new epoch of the change log and exit; run it after an older copy of the store was restored, before keyd starts again",
		Run:  newEpoch,
	}},
}

func start(ctx context.Context, rt *daemon.Runtime, cfg *config.Keyd) (func(*config.Keyd) error, error) {
	settings, err := settingsOf(cfg, rt.Log)
	if err != nil {
		return nil, err
	}
	open, err := storeOf(cfg, rt.Log)
	if err != nil {
		return nil, err
	}
	tracer, err := tracing.Start(rt, tracing.Options{Name: "keyd", Version: daemon.Version(), OTLP: cfg.Tracing.URL(), Metrics: metricsPrefix})
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	store, err := openReachable(ctx, rt, open)
	if err != nil {
		return nil, err
	}
	return serve(rt, cfg, keyserver.Options{Store: store, Tracer: tracer}, settings)
}

// serve adds the components: the listeners depend on the change log, and that on the store.
func serve(rt *daemon.Runtime, cfg *config.Keyd, o keyserver.Options, settings keyserver.Settings) (func(*config.Keyd) error, error) {
	store := o.Store
	if metrics, ok := store.(prometheus.Collector); ok {
		rt.Metrics.MustRegister(metrics)
	}
	rt.Add(daemon.Component{Name: "store", Stop: func(context.Context) error { return store.Close() }})
	o.Log, o.Metrics, o.Draining = rt.Log, rt.Metrics, rt.Draining()
	server := keyserver.New(o, settings)
	rt.Add(daemon.Component{Name: "change log", Run: server.Run})
	rt.ReadyWhen("store", func() error { return ping(store) })
	if err := listen(rt, cfg, server); err != nil {
		return nil, err
	}
	return func(next *config.Keyd) error {
		settings, err := settingsOf(next, rt.Log)
		if err == nil {
			raiseUnknown(store, next)
			server.Apply(settings)
		}
		return err
	}, nil
}

// listen binds and serves the listeners of sidecars, operators and owners.
func listen(rt *daemon.Runtime, cfg *config.Keyd, server *keyserver.Server) error {
	var conf *tls.Config
	if files := cfg.Listen.TLS; files != nil {
		server, err := secretfile.NewServer(string(files.CertFile), string(files.KeyFile), string(files.ClientCAFile), rt.Log)
		if err != nil {
			return fmt.Errorf("listen.tls: %w", err)
		}
		conf = server.Config()
		rt.WatchCertificates("listen.tls", server.Expiries)
	}
	listeners := []struct {
		name    string
		addr    config.Address
		handler http.Handler
	}{
		{"sidecars", cfg.Listen.Sidecars, server.Sidecars()},
		{"operators", cfg.Listen.Operators, server.Operators()},
		{"owners", cfg.Listen.Owners, server.Owners()},
	}
	for _, l := range listeners {
		ln, err := rt.Listen("listen."+l.name, l.addr)
		if err != nil {
			return err
		}
		rt.ServeHTTP(l.name, ln, conf, l.handler)
	}
	return nil
}

// ping returns an error unless the store answers now. The store's own error is not public.
func ping(store keystore.Store) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if store.Ping(ctx) != nil {
		return errors.New("the store does not answer")
	}
	return nil
}
