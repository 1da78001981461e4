package faults_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/phantomrouter/phantom-authz/envoy"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// mixedFront is what the requests of a mixed load go through.
type mixedFront interface {
	// start starts the sidecars and Envoy.
	start(m *mixed)
	// setRequirement sets the requirement of a route of Envoy's configuration.
	setRequirement(route, fields doc)
	// changeListener changes the listener for an update.
	changeListener(listener doc, update int)
}

// decider is a sidecar of a mixed load: an authzd or the module. A restart replaces its process.
type decider struct {
	role   string
	checks checker // reaches this one only

	mu      sync.Mutex
	process *testbed.Process
}

func (d *decider) now() *testbed.Process {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.process
}

func (d *decider) replace(by *testbed.Process) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.process = by
}

// sidecarFields are the fields of a sidecar's configuration.
func (m *mixed) sidecarFields() testbed.Config {
	return testbed.Config{
		"key_api": testbed.Config{"url": m.route.url, "token_file": "key-api.token", "timeout": "1s"},
		"cache": testbed.Config{
			"confirm_after": milliseconds(mixedPace.lease / 2), "max_stale": milliseconds(mixedPace.maxStale),
			"credentials": 2000, "unknown": 2000, // they fill while the memory settles
		},
		"log": testbed.Config{"level": "info"},
	}
}

// mixedEnvoyArgs are further arguments of Envoy.
var mixedEnvoyArgs = []string{"--concurrency", "2", "--drain-time-s", "10"}

// behindModule is an Envoy with the module.
type behindModule struct{}

func (behindModule) start(m *mixed) {
	m.proxy = m.startEnvoy(m.t, "envoy", envoyOptions{fields: m.sidecarFields(), edit: m.xds.take, args: mixedEnvoyArgs})
	m.deciders = []*decider{{role: envoyRole, checks: m.proxy, process: m.proxy.Process}}
}

func (behindModule) setRequirement(route, fields doc) {
	route["typed_per_filter_config"].(doc)["phantom_authz"].(doc)["filter_config"].(doc)["value"] = fields
}

// changeListener changes in turn the listener alone, so that Envoy replaces it whole, and the module's configuration.
func (behindModule) changeListener(listener doc, update int) {
	if update%2 == 1 {
		changeBuffer(listener, update)
		return
	}
	module := filterOf(listener, "phantom_authz")["filter_config"].(doc)["value"].(doc)
	module["cache"].(doc)["max_age"] = fmt.Sprintf("%ds", 3600+update)
}

func changeBuffer(listener doc, update int) {
	listener["per_connection_buffer_limit_bytes"] = 65536 + update
}

// filterOf returns the configuration of an HTTP filter.
func filterOf(listener doc, name string) doc {
	for _, filter := range manager(listener)["http_filters"].([]any) {
		if filter.(doc)["name"] == name {
			return filter.(doc)["typed_config"].(doc)
		}
	}
	panic("the listener has no filter " + name)
}

// behindAuthzd is an Envoy with two endpoints for its checks: an authzd that runs all the time, so that a growth of its memory
// shows, and one that is restarted.
type behindAuthzd struct{}

const (
	steadyName    = "authzd"
	restartedName = "restarted" // of the socket
	extAuthz      = "envoy.filters.http.ext_authz"
)

func (behindAuthzd) start(m *mixed) {
	for name, role := range map[string]string{steadyName: authzdRole, restartedName: restartedRole} {
		process := must(m.StartAuthzd(m.t.Context(), name, m.sidecarFields()))(m.t)
		m.deciders = append(m.deciders, &decider{role: role, process: process, checks: m.checks(name)})
	}
	slices.SortFunc(m.deciders, func(a, b *decider) int { return strings.Compare(a.role, b.role) })
	m.proxy = m.startEnvoy(m.t, "envoy", envoyOptions{
		authz: m.Socket(steadyName), args: mixedEnvoyArgs,
		edit: func(config doc) error {
			addEndpoint(config, m.Socket(restartedName))
			return m.xds.take(config)
		},
	})
}

// addEndpoint adds a second socket to the cluster of authzd.
func addEndpoint(config doc, socket string) {
	for _, cluster := range config["static_resources"].(doc)["clusters"].([]any) {
		if cluster.(doc)["name"] == "authz" {
			endpoints := cluster.(doc)["load_assignment"].(doc)["endpoints"].([]any)[0].(doc)
			pipe := doc{"endpoint": doc{"address": doc{"pipe": doc{"path": socket}}}}
			endpoints["lb_endpoints"] = append(endpoints["lb_endpoints"].([]any), pipe)
		}
	}
}

func (behindAuthzd) setRequirement(route, fields doc) {
	route["typed_per_filter_config"].(doc)[extAuthz].(doc)["check_settings"].(doc)["context_extensions"] = fields
}

func (behindAuthzd) changeListener(listener doc, update int) { changeBuffer(listener, update) }

// restart is one restart of a sidecar.
type restart struct {
	period         period
	started, ended time.Duration // from the start of the new process until it answers; from SIGTERM to the end of the old one
}

// restartSidecar starts a second process, which takes over the socket, and then stops the first one. No outage begins meanwhile:
// without the key API a new process can only deny.
func (m *mixed) restartSidecar(ctx context.Context, _ int) {
	m.disturbing.Lock()
	defer m.disturbing.Unlock()
	if ctx.Err() != nil {
		return
	}
	ctx = context.WithoutCancel(ctx)
	r := restart{period: period{name: "restart", begin: time.Now()}}
	m.restarting.Store(true)
	defer m.restarting.Store(false)
	for _, d := range m.deciders {
		if d.role != restartedRole {
			continue
		}
		next, err := m.StartAuthzd(ctx, restartedName, m.sidecarFields())
		if err != nil {
			m.t.Errorf("restart: %v", err)
			return
		}
		r.started = time.Since(r.period.begin)
		old := d.now()
		m.failedBefore += failedLookUps(ctx, old)
		d.replace(next)
		stopping := time.Now()
		if code, err := old.Stop(syscall.SIGTERM); err != nil || code != 0 {
			m.t.Errorf("restart: exit code %d, %v", code, err)
		}
		r.ended = time.Since(stopping)
		m.awaitReady(d)
	}
	eventually(m.t, "sidecars", func() error {
		all, err := m.Operators.Sidecars(ctx)
		if err == nil && len(all.Items) != len(m.deciders) {
			err = fmt.Errorf("%d sidecars are on record, want %d", len(all.Items), len(m.deciders))
		}
		return err
	})
	r.period.end = time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.restarts = append(m.restarts, r)
}

// awaitReady waits until a sidecar has a lease and the credentials that are never changed.
func (m *mixed) awaitReady(d *decider) {
	m.t.Helper()
	eventually(m.t, "a lease", func() error { return metricIs(m.t, d.now(), synced, 1) })
	eventually(m.t, "the key API", func() error { return metricIs(m.t, d.now(), down, 0) })
	for _, s := range m.kept {
		eventually(m.t, "cached key", func() error { return checkIs(d.checks, s.secret, allowed) })
	}
}

// renderFor returns Envoy's configuration with authzd at the socket o.authz, or with the module.
func renderFor(o envoyOptions, a envoy.Addresses, module testbed.Config) ([]byte, error) {
	if o.authz == "" {
		return envoy.RenderModule(a, module)
	}
	a.Authz = "unix://" + o.authz
	return envoy.Render(a)
}

// setPatience has Envoy wait for authzd on a busy machine, so that each 503 is authzd's.
func setPatience(config doc) {
	const long = "20s"
	call := filterOf(publicListener(config), extAuthz)["grpc_service"].(doc)
	call["timeout"] = long
	call["retry_policy"].(doc)["retry_back_off"].(doc)["max_interval"] = long
	for _, cluster := range config["static_resources"].(doc)["clusters"].([]any) {
		if cluster.(doc)["name"] == "authz" {
			for _, options := range cluster.(doc)["typed_extension_protocol_options"].(doc) {
				http2 := options.(doc)["explicit_http_config"].(doc)["http2_protocol_options"].(doc)
				http2["connection_keepalive"].(doc)["timeout"] = long
			}
		}
	}
}
