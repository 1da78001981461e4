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
	Settings: func(cfg *config.Authzd) daemon.Settings {
		return daemon.Settings{Admin: cfg.Listen.Admin, DrainDelay: cfg.DrainDelay, Drain: cfg.Drain, LogLevel: cfg.Log.Level}
	},
	NeedsRestart: config.NeedsRestart[config.Authzd],
	Start:        start,
}

// start puts the parts on the stack: what answers checks stands on what follows the
// change log, and that on the cache. So a stop ends them in the order that the key
// API relies on: no more answers, then the goodbye.
func start(_ context.Context, rt *daemon.Runtime, cfg *config.Authzd) (func(*config.Authzd) error, error) {
	keepHeadroom()
	logGRPC(rt.Log)
	keyAPI, err := newLink(rt, cfg.KeyAPI)
	if err != nil {
		return nil, err
	}
	cache := keycache.New(keyAPI, cacheOptions(rt, cfg))
	rt.Add(daemon.Component{Name: "cache", Stop: func(context.Context) error { cache.Close(); keyAPI.close(); return nil }})
	rt.Add(daemon.Component{Name: "change log", Run: cache.Run})

	recorder := usage.New(keyAPI, cache.Name, rt.Log, rt.Metrics)
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
		api := next.KeyAPI
		api.URL = cfg.KeyAPI.URL // another key API has another change log: that takes a restart
		if err := keyAPI.reload(api); err != nil {
			return err
		}
		checker.SetRules(rules)
		cache.SetTimes(times(next.Cache))
		cache.SetAdmission(admission(next.Admission))
		return nil
	}, nil
}

// serveChecks binds the check listeners and puts their server on the stack.
func serveChecks(rt *daemon.Runtime, cfg *config.Authzd, checker *extauthz.Checker, cache *keycache.Cache) error {
	var secure []grpc.ServerOption
	if t := cfg.Listen.TLS; t != nil {
		conf, err := secretfile.NewServer(string(t.CertFile), string(t.KeyFile), string(t.ClientCAFile), rt.Log)
		if err != nil {
			return fmt.Errorf("listen.tls: %w", err)
		}
		secure = append(secure, grpc.Creds(credentials.NewTLS(conf)))
	}
	// Each listener has a server of its own: stopping one must not end another's Serve before its turn.
	var fronts []*grpcserver.Server
	for i, addr := range cfg.Listen.Check {
		ln, err := rt.Listen(fmt.Sprintf("listen.check[%d]", i), addr)
		if err != nil {
			return err
		}
		front := grpcserver.New(checker, rt.Log)
		if addr.Network() == "tcp" {
			front = grpcserver.New(checker, rt.Log, secure...)
		}
		fronts = append(fronts, front)
		rt.Add(daemon.Component{
			Name: "checks at " + addr.URL(),
			Run:  func(context.Context) error { return front.Serve(ln) },
			Stop: func(ctx context.Context) error { front.Stop(ctx); return nil },
		})
	}
	rt.Add(whenReady(rt, cache, cfg.StartWait, fronts...))
	return nil
}

// whenReady waits for the key API's first answer, at most so long: an outage of the key
// API must not keep this sidecar, and with it every Pod, out of service.
func whenReady(rt *daemon.Runtime, cache *keycache.Cache, atMost time.Duration, fronts ...*grpcserver.Server) daemon.Component {
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
		timer := time.NewTimer(atMost)
		defer timer.Stop()
		select {
		case <-cache.Answered():
		case <-timer.C:
			rt.Log.Warn("ready without an answer of the key API: start_wait is over")
		case <-rt.Stopping():
			<-ctx.Done()
			return nil
		case <-ctx.Done():
			return nil
		}
		close(waited)
		setServing(fronts, true)
		select {
		case <-rt.Stopping(): // drain_delay comes before the drain, and checks are still answered
			setServing(fronts, false)
		case <-ctx.Done():
		}
		<-ctx.Done()
		return nil
	}}
}

// setServing sets what grpc.health.v1 answers.
func setServing(fronts []*grpcserver.Server, serving bool) {
	for _, front := range fronts {
		front.SetServing(serving)
	}
}

// rulesOf takes from the configuration what bears on a check.
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
		KeyAPITimeout: cfg.KeyAPI.Timeout,
	}, nil
}

// cacheOptions takes the cache's options from the configuration.
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

// times takes the cache's times from the configuration. The key API receives max_stale in
// milliseconds, so a longer one must not be used.
func times(c config.Cache) keycache.Times {
	return keycache.Times{MaxAge: c.MaxAge, ConfirmAfter: c.ConfirmAfter, MaxStale: c.MaxStale.Truncate(time.Millisecond)}
}

func admission(a config.Admission) keycache.Admission {
	return keycache.Admission{PerSecond: a.UnknownPerSecond, Burst: a.Burst}
}

// sidecarName returns a new name at each call, unique to this process: a restarted one holds
// nothing that the process before had cached.
func sidecarName() string {
	const maxHost = 64
	host, err := os.Hostname()
	if err != nil {
		host = "authzd"
	}
	return host[:min(len(host), maxHost)] + "-" + credential.RandomBase62(8)
}
