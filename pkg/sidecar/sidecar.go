// Package sidecar builds the part of a sidecar that is behind its front: the client of the key API,
// the cache, the usage reports and the checker. authzd puts a gRPC server in front of it, the Envoy
// module a filter. It connects packages and takes no part in a check.
package sidecar

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/config"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/daemon"
	"github.com/phantomrouter/phantom-authz/pkg/explain"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
	"github.com/phantomrouter/phantom-authz/pkg/keycache"
	"github.com/phantomrouter/phantom-authz/pkg/policy"
	"github.com/phantomrouter/phantom-authz/pkg/usage"
)

// Metrics is the prefix of the names of a sidecar's metrics, in authzd and in the module.
const Metrics = "phantom_authz"

// Sidecar is a checker with what it needs. The components behind it belong to the Runtime's stack.
type Sidecar struct {
	Checker *extauthz.Checker

	rt    *daemon.Runtime
	cfg   *config.Authzd // of the start
	api   *keyAPI
	cache *keycache.Cache
	usage *usage.Recorder

	shadow *shadow
}

// New builds a sidecar of the configuration, without its listeners, and adds its components to the
// stack in the order in which they depend on each other. A front that is added later is stopped
// before them: a stop ends the checks first and then deregisters from the key API, which relies on
// this order.
func New(rt *daemon.Runtime, cfg *config.Authzd) (*Sidecar, error) {
	rules, err := rulesOf(cfg)
	if err != nil {
		return nil, err
	}
	api, err := newKeyAPI(rt, cfg.KeyAPI)
	if err != nil {
		return nil, err
	}
	options := cacheOptions(rt, cfg)
	options.Panics = rt.Panics("cache")
	cache := keycache.New(api, options)
	rt.Add(daemon.Component{Name: "cache", Stop: func(context.Context) error { cache.Close(); api.close(); return nil }})
	rt.Add(daemon.Component{Name: "change log", Run: cache.Run})
	recorder := usage.New(api, cache.Name, rt.Log, rt.Metrics)
	rt.Add(daemon.Component{Name: "usage", Run: recorder.Run})
	checker := extauthz.NewChecker(cache, recorder, rules, extauthz.NewMetrics(rt.Metrics, rt.Panics("check")))
	shadow := newShadow(rt.Log, rt.Metrics)
	shadow.add(checker)
	rt.Add(daemon.Component{Name: "shadow mode", Run: shadow.run})
	rt.HandleDebug("POST "+explain.Path, explain.Handler(checker, inspector(cache)))
	return &Sidecar{Checker: checker, rt: rt, cfg: cfg, api: api, cache: cache, usage: recorder, shadow: shadow}, nil
}

// NewChecker returns a checker with the rules of another configuration. It shares the cache, the
// reports and the metrics. Reload does not change its rules. Release ends its use.
func (s *Sidecar) NewChecker(cfg *config.Authzd) (*extauthz.Checker, error) {
	rules, err := rulesOf(cfg)
	if err != nil {
		return nil, err
	}
	checker := extauthz.NewChecker(s.cache, s.usage, rules, s.Checker.Metrics())
	s.shadow.add(checker)
	return checker, nil
}

// Release notes that a checker of NewChecker is no longer used.
func (s *Sidecar) Release(checker *extauthz.Checker) {
	if checker != s.Checker {
		s.shadow.remove(checker)
	}
}

// Reload applies a configuration, except for the fields that need a restart. After an error the one
// before stays in use.
func (s *Sidecar) Reload(next *config.Authzd) error {
	rules, err := rulesOf(next)
	if err != nil {
		return err
	}
	changed := next.KeyAPI
	changed.URL = s.cfg.KeyAPI.URL // another key API has another change log, which requires a restart
	if err := s.api.reload(changed); err != nil {
		return err
	}
	s.Checker.SetRules(rules)
	s.shadow.look()
	s.cache.SetTimes(times(next.Cache))
	s.cache.SetAdmission(admission(next.Admission))
	return nil
}

// AddReadiness adds the component that reports the sidecar as ready, in /readyz and to setServing,
// after the first answer of the key API or after start_wait: an outage of the key API must not keep
// every Pod out of service. It calls setServing(false) when the stop begins.
func (s *Sidecar) AddReadiness(setServing func(bool)) {
	rt, waited := s.rt, make(chan struct{})
	rt.ReadyWhen("key API", func() error {
		select {
		case <-waited:
			return nil
		default:
			return errors.New("the key API has not answered yet")
		}
	})
	rt.Add(daemon.Component{Name: "readiness", Run: func(ctx context.Context) error {
		select {
		case <-s.cache.Answered():
		case <-time.After(s.cfg.StartWait.Duration):
			rt.Log.Warn("start_wait is over without an answer of the key API: ready")
		case <-rt.Stopping():
			<-ctx.Done()
			return nil
		case <-ctx.Done():
			return nil
		}
		close(waited)
		setServing(true)
		select {
		case <-rt.Stopping(): // checks are still answered, also in drain_delay
			setServing(false)
		case <-ctx.Done():
		}
		<-ctx.Done()
		return nil
	}})
}

// Settings returns what the frame of the program needs of the configuration.
func Settings(cfg *config.Authzd) daemon.Settings {
	return daemon.Settings{Admin: cfg.Listen.Admin, DrainDelay: cfg.DrainDelay.Duration, Drain: cfg.Drain.Duration, LogLevel: cfg.Log.Level}
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
