//go:build cgo

package main

import (
	"cmp"
	"context"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/config"
	"github.com/phantomrouter/phantom-authz/pkg/daemon"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz/envoymodule"
	"github.com/phantomrouter/phantom-authz/pkg/sidecar"
)

// engine is a sidecar in the process of Envoy: the cache, its follower, the reports and the admin
// listener. All filters with the same key API and admin listener share it, or with the same
// config_file. So the cache outlives the updates of listeners: Envoy makes the new configuration
// before it destroys the old one.
type engine struct {
	key     string
	program *daemon.Embedded
	sidecar *sidecar.Sidecar
	cfg     *config.Authzd // with which it started
	log     *zap.Logger
	users   int // filter configurations
}

var engines = struct {
	sync.Mutex
	running map[string]*engine // by key; those without users are stopping
}{running: map[string]*engine{}}

// answerTime is the time that a check may take longer than the request to the key API. With the
// default key_api.timeout the limit of a check is 500 ms, as in envoy.yaml. Smaller answers 503
// before the key API's answer arrives; larger delays the 503.
const answerTime = 100 * time.Millisecond

// open returns the engine of a filter_config, and starts it if it is the first with it.
//
// What decides checks (web_app, keys, endpoints, shadow) is that of this filter_config. What belongs
// to the engine is that of the newest one.
func open(filterConfig []byte) (*envoymodule.Engine, error) {
	cfg, file, err := config.LoadModule(filterConfig)
	if err != nil {
		return nil, err
	}
	key := cmp.Or(file, cfg.KeyAPI.URL+" "+cfg.Listen.Admin.URL())
	engines.Lock()
	defer engines.Unlock()
	e, running := engines.running[key]
	if running && (e.users == 0 || e.program.Exited()) {
		e.program.Stop() // it stops already, and its admin listener must be free
		running = false
	}
	if !running {
		if e, err = start(key, cfg, file); err != nil {
			return nil, err
		}
		engines.running[key] = e
	}
	checker := e.sidecar.Checker // reloaded with the file
	if file == "" {
		if running {
			err = e.reload(cfg)
		}
		if err == nil {
			checker, err = e.sidecar.NewChecker(cfg)
		}
	}
	if err != nil {
		return nil, err
	}
	e.users++
	return &envoymodule.Engine{
		Checker: checker,
		Timeout: func() time.Duration { return checker.KeyAPITimeout() + answerTime },
		Log:     e.log,
		Release: func() { e.sidecar.Release(checker); e.release() },
	}, nil
}

// reload applies what belongs to the engine of a newer filter_config.
func (e *engine) reload(cfg *config.Authzd) error {
	if fields := config.NeedsRestart(e.cfg, cfg); len(fields) > 0 {
		e.log.Warn("changed fields require a restart of Envoy", zap.Strings("fields", fields))
	}
	return e.sidecar.Reload(cfg)
}

// start starts an engine.
func start(key string, cfg *config.Authzd, file string) (*engine, error) {
	e := &engine{key: key, cfg: cfg}
	program := daemon.Program[*config.Authzd]{
		Name:    "authzd",
		Metrics: sidecar.Metrics,
		Load: func(path string) (*config.Authzd, error) {
			if path == "" {
				return cfg, nil
			}
			return config.LoadModuleFile(path)
		},
		Settings:     sidecar.Settings,
		NeedsRestart: config.NeedsRestart[config.Authzd],
		Start: func(_ context.Context, rt *daemon.Runtime, cfg *config.Authzd) (reload func(*config.Authzd) error, err error) {
			e.log = rt.Log
			if e.sidecar, err = sidecar.New(rt, cfg); err != nil {
				return nil, err
			}
			e.sidecar.AddReadiness(func(bool) {}) // only /readyz
			return e.sidecar.Reload, nil
		},
	}
	var err error
	e.program, err = daemon.Embed(program, file, os.Stderr)
	return e, err
}

// release ends the use of an engine by one filter_config. After the last one the engine deregisters
// from the key API and stops. Envoy waits for it only if no other engine runs, as when Envoy exits:
// then nothing would be left to do so.
func (e *engine) release() {
	engines.Lock()
	e.users--
	used := 0
	for _, other := range engines.running {
		used += other.users
	}
	stop := e.users == 0
	engines.Unlock()
	switch {
	case !stop:
	case used == 0:
		e.stop()
	default:
		go e.stop()
	}
}

// stop stops an engine without users, and forgets it with its cache.
func (e *engine) stop() {
	e.program.Stop()
	engines.Lock()
	defer engines.Unlock()
	if engines.running[e.key] == e { // else its successor has started
		delete(engines.running, e.key)
	}
}

// route returns the requirement in the filter_config of a route.
func route(filterConfig []byte) (extauthz.RouteRequirement, error) {
	r, err := config.LoadRoute(filterConfig)
	return extauthz.RouteRequirement{Set: true, HasPrincipal: r.Principal != "", Scope: r.Scope, Principal: r.Principal}, err
}
