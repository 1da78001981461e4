package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/phantomrouter/phantom-authz/pkg/config"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/daemon"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz/grpcserver"
	"github.com/phantomrouter/phantom-authz/pkg/keycache"
	"github.com/phantomrouter/phantom-authz/pkg/policy"
	"github.com/phantomrouter/phantom-authz/pkg/secretfile"
	"github.com/phantomrouter/phantom-authz/pkg/usage"
)

var program = daemon.Program[*config.Authzd]{
	Name:    "authzd",
	Summary: "answers Envoy's external-authorization checks of API keys and console sessions.",
	Load:    config.LoadAuthzd,
	Check:   config.CheckAuthzd,
	Admin:   func(path string) (net.Addr, error) { return config.AuthzdAdmin(path) },
	Print:   config.Print[config.Authzd],
	Schema:  config.Schema[config.Authzd],
	Settings: func(cfg *config.Authzd) daemon.Settings {
		return daemon.Settings{Admin: cfg.Listen.Admin, DrainDelay: cfg.DrainDelay.Duration, Drain: cfg.Drain.Duration, LogLevel: cfg.Log.Level}
	},
	NeedsRestart: config.NeedsRestart[config.Authzd],
	Start:        start,
}

// start adds the components in the order in which they depend on each other. So a stop ends the
// checks first and then deregisters from the key API, which relies on this order.
func start(_ context.Context, rt *daemon.Runtime, cfg *config.Authzd) (func(*config.Authzd) error, error) {
	keepHeadroom()
	logGRPC(rt.Log)
	api, err := newKeyAPI(rt, cfg.KeyAPI)
	if err != nil {
		return nil, err
	}
	cache := keycache.New(api, cacheOptions(rt, cfg))
	rt.Add(daemon.Component{Name: "cache", Stop: func(context.Context) error { cache.Close(); api.close(); return nil }})
	rt.Add(daemon.Component{Name: "change log", Run: cache.Run})

	recorder := usage.New(api, cache.Name, rt.Log, rt.Metrics)
	rt.Add(daemon.Component{Name: "usage", Run: recorder.Run})

	rules, err := rulesOf(cfg)
	if err != nil {
		return nil, err
	}
	checker := extauthz.NewChecker(cache, recorder, rules, extauthz.NewMetrics(rt.Metrics))
	if err := serveChecks(rt, cfg, checker, cache); err != nil {
		return nil, err
	}
	return func(next *config.Authzd) error {
		rules, err := rulesOf(next)
		if err != nil {
			return err
		}
		changed := next.KeyAPI
		changed.URL = cfg.KeyAPI.URL // another key API has another change log, which requires a restart
		if err := api.reload(changed); err != nil {
			return err
		}
		checker.SetRules(rules)
		cache.SetTimes(times(next.Cache))
		cache.SetAdmission(admission(next.Admission))
		return nil
	}, nil
}

// serveChecks binds the check listeners and adds their servers.
func serveChecks(rt *daemon.Runtime, cfg *config.Authzd, checker *extauthz.Checker, cache *keycache.Cache) error {
	var secure []grpc.ServerOption
	if t := cfg.Listen.TLS; t != nil {
		conf, err := secretfile.NewServer(string(t.CertFile), string(t.KeyFile), string(t.ClientCAFile), rt.Log)
		if err != nil {
			return fmt.Errorf("listen.tls: %w", err)
		}
		secure = append(secure, grpc.Creds(credentials.NewTLS(conf)))
	}
	// Each listener has its own server, so that its stop does not end the Serve of another.
	var servers []*grpcserver.Server
	for i, addr := range cfg.Listen.Check {
		ln, err := rt.Listen(fmt.Sprintf("listen.check[%d]", i), addr)
		if err != nil {
			return err
		}
		server := grpcserver.New(checker, rt.Log)
		if addr.Network() == "tcp" {
			server = grpcserver.New(checker, rt.Log, secure...)
		}
		servers = append(servers, server)
		rt.Add(daemon.Component{
			Name: "checks at " + addr.URL(),
			Run:  func(context.Context) error { return server.Serve(ln) },
			Stop: func(ctx context.Context) error { server.Stop(ctx); return nil },
		})
	}
	rt.Add(newReadiness(rt, cache, cfg.StartWait.Duration, servers))
	return nil
}

// newReadiness makes the component that reports this sidecar as ready after the first answer of the
// key API or after startWait: an outage of the key API must not keep every Pod out of service.
func newReadiness(rt *daemon.Runtime, cache *keycache.Cache, startWait time.Duration, servers []*grpcserver.Server) daemon.Component {
	waited := make(chan struct{})
	rt.ReadyWhen("key API", func() error {
		select {
		case <-waited:
			return nil
		default:
			return errors.New("the key API has not answered yet")
		}
	})
	return daemon.Component{Name: "readiness", Run: func(ctx context.Context) error {
		select {
		case <-cache.Answered():
		case <-time.After(startWait):
			rt.Log.Warn("start_wait is over without an answer of the key API: ready")
		case <-rt.Stopping():
			<-ctx.Done()
			return nil
		case <-ctx.Done():
			return nil
		}
		close(waited)
		setServing(servers, true)
		select {
		case <-rt.Stopping(): // checks are still answered, also in drain_delay
			setServing(servers, false)
		case <-ctx.Done():
		}
		<-ctx.Done()
		return nil
	}}
}

// setServing sets what grpc.health.v1 answers.
func setServing(servers []*grpcserver.Server, serving bool) {
	for _, server := range servers {
		server.SetServing(serving)
	}
}

// rulesOf returns the rules of checks in the configuration.
func rulesOf(cfg *config.Authzd) (*extauthz.Rules, error) {
	list := make([]policy.Endpoint, 0, len(cfg.Endpoints))
	for _, e := range cfg.Endpoints {
		list = append(list, e.Entry())
	}
	table, err := policy.NewEndpoints(list)
	if err != nil {
		return nil, fmt.Errorf("endpoints: %w", err)
	}
	return &extauthz.Rules{
		SessionScopes: credential.NewScopes(cfg.WebApp.Scopes...),
		Endpoints:     table,
		Origin:        cfg.WebApp.Origin,
		CookieName:    cfg.WebApp.Cookie,
		RefuseForeign: cfg.Keys.ForeignFormat == config.RefuseForeign,
		Shadow:        cfg.Shadow,
		KeyAPITimeout: cfg.KeyAPI.Timeout.Duration,
	}, nil
}

// cacheOptions returns the options of the cache in the configuration.
func cacheOptions(rt *daemon.Runtime, cfg *config.Authzd) keycache.Options {
	return keycache.Options{
		Name:            sidecarName,
		ChangesOptional: cfg.KeyAPI.Changes == config.ChangesOptional,
		Known:           cfg.Cache.Credentials,
		Unknown:         cfg.Cache.Unknown,
		Times:           times(cfg.Cache),
		Admission:       admission(cfg.Admission),
		Log:             rt.Log,
		Metrics:         rt.Metrics,
	}
}

// times returns the times of the cache in the configuration. The key API receives max_stale in
// milliseconds, so it is rounded down to them.
func times(c config.Cache) keycache.Times {
	return keycache.Times{MaxAge: c.MaxAge.Duration, ConfirmAfter: c.ConfirmAfter.Duration, MaxStale: c.MaxStale.Truncate(time.Millisecond)}
}

func admission(a config.Admission) keycache.Admission {
	return keycache.Admission{PerSecond: a.UnknownPerSecond, Burst: a.Burst}
}

// sidecarName returns a new name at each call. A restarted process must not use the name of the one
// before, whose cache it does not have.
func sidecarName() string {
	const maxHost = 64
	host, err := os.Hostname()
	if err != nil {
		host = "authzd"
	}
	return host[:min(len(host), maxHost)] + "-" + credential.RandomBase62(8)
}
