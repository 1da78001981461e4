package main

import (
	"context"
	"fmt"
	"net"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/phantomrouter/phantom-authz/pkg/config"
	"github.com/phantomrouter/phantom-authz/pkg/daemon"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz/grpcserver"
	"github.com/phantomrouter/phantom-authz/pkg/secretfile"
	"github.com/phantomrouter/phantom-authz/pkg/sidecar"
	"github.com/phantomrouter/phantom-authz/pkg/tracing"
)

var program = daemon.Program[*config.Authzd]{
	Name:         "authzd",
	Metrics:      sidecar.Metrics,
	Summary:      "answers Envoy's external-authorization checks of API keys and console sessions.",
	Also:         "authzd lint FILE… checks Envoy's configuration; authzd lint -h lists its flags.",
	Load:         config.LoadAuthzd,
	Check:        config.CheckAuthzd,
	Admin:        func(path string) (net.Addr, error) { return config.AuthzdAdmin(path) },
	Print:        config.Print[config.Authzd],
	Schema:       config.Schema[config.Authzd],
	Settings:     sidecar.Settings,
	NeedsRestart: config.NeedsRestart[config.Authzd],
	Start:        start,
}

func start(_ context.Context, rt *daemon.Runtime, cfg *config.Authzd) (func(*config.Authzd) error, error) {
	daemon.KeepHeadroom()
	daemon.LimitMemory(rt.Log)
	logGRPC(rt.Log)
	tracer, err := tracing.Start(rt, tracing.Options{Name: "authzd", Version: daemon.Version(), OTLP: cfg.Tracing.URL(), Metrics: sidecar.Metrics})
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	s, err := sidecar.New(rt, cfg)
	if err != nil {
		return nil, err
	}
	servers, err := serveChecks(rt, cfg, s.Checker, tracer)
	if err != nil {
		return nil, err
	}
	s.AddReadiness(func(serving bool) {
		for _, server := range servers {
			server.SetServing(serving)
		}
	})
	return s.Reload, nil
}

// serveChecks binds the check listeners and adds their servers. Each listener has its own server, so
// that its stop does not end the Serve of another.
func serveChecks(rt *daemon.Runtime, cfg *config.Authzd, checker *extauthz.Checker, tracer trace.Tracer) (servers []*grpcserver.Server, err error) {
	var secure []grpc.ServerOption
	if t := cfg.Listen.TLS; t != nil {
		server, err := secretfile.NewServer(string(t.CertFile), string(t.KeyFile), string(t.ClientCAFile), rt.Log)
		if err != nil {
			return nil, fmt.Errorf("listen.tls: %w", err)
		}
		secure = append(secure, grpc.Creds(credentials.NewTLS(server.Config())))
		rt.WatchCertificates("listen.tls", server.Expiries)
	}
	for i, addr := range cfg.Listen.Check {
		ln, err := rt.Listen(fmt.Sprintf("listen.check[%d]", i), addr)
		if err != nil {
			return nil, err
		}
		server := grpcserver.New(checker, rt.Log, tracer)
		if addr.Network() == "tcp" {
			server = grpcserver.New(checker, rt.Log, tracer, secure...)
		}
		servers = append(servers, server)
		rt.Add(daemon.Component{
			Name: "checks at " + addr.URL(),
			Run:  func(context.Context) error { return server.Serve(ln) },
			Stop: func(ctx context.Context) error { server.Stop(ctx); return nil },
		})
	}
	return servers, nil
}
