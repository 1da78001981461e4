package faults_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// flipPath is an endpoint whose requirement changes.
const flipPath = "/flip"

// xds is Envoy's dynamic configuration: files of the listener and of its routes, which are replaced by a rename.
type xds struct {
	dir, admin string
	front      mixedFront
	listener   map[string]any
	routes     map[string]any
	flip       map[string]any // the route of flipPath
}

type doc = map[string]any

// source returns the source of a file in a watched folder of its own.
func (x *xds) source(name string) doc {
	folder := filepath.Join(x.dir, name)
	return doc{
		"path_config_source":   doc{"path": filepath.Join(folder, "xds.yaml"), "watched_directory": doc{"path": folder}},
		"resource_api_version": "V3",
	}
}

// take moves the listener and the routes from Envoy's configuration to the files.
func (x *xds) take(config doc) error {
	x.listener = publicListener(config)
	x.routes = manager(x.listener)["route_config"].(doc)
	delete(config["static_resources"].(doc), "listeners")
	delete(manager(x.listener), "route_config")
	manager(x.listener)["rds"] = doc{"route_config_name": x.routes["name"], "config_source": x.source("rds")}
	delete(manager(x.listener), "access_log") // gigabytes
	config["node"] = doc{"id": "mixed", "cluster": "mixed"}
	config["dynamic_resources"] = doc{"lds_config": x.source("lds")}
	x.listener["@type"] = "type.googleapis.com/envoy.config.listener.v3.Listener"
	x.routes["@type"] = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"

	host := x.routes["virtual_hosts"].([]any)[0].(doc)
	routes := host["routes"].([]any)
	x.flip = copyOf(routes[0].(doc)) // requires the scope
	x.flip["match"] = doc{"path": flipPath}
	host["routes"] = append([]any{x.flip}, routes...)
	x.setFlip(false)
	return errors.Join(x.write("lds", 0, x.listener), x.write("rds", 0, x.routes))
}

func copyOf(in doc) (out doc) {
	text, _ := yaml.Marshal(in)
	_ = yaml.Unmarshal(text, &out)
	return out
}

func (x *xds) setFlip(scopeRequired bool) {
	fields := doc{"principal": "any"}
	if scopeRequired {
		fields = doc{"scope": chatScope}
	}
	x.front.setRequirement(x.flip, fields)
}

// write replaces a file. Envoy reads it when a rename in its folder completes.
func (x *xds) write(name string, version int, resource doc) error {
	text, err := yaml.Marshal(doc{"version_info": strconv.Itoa(version), "resources": []any{resource}})
	if err != nil {
		return err
	}
	folder := filepath.Join(x.dir, name)
	temporary := filepath.Join(x.dir, name+".new")
	return errors.Join(os.MkdirAll(folder, 0o700), os.WriteFile(temporary, text, 0o600), os.Rename(temporary, filepath.Join(folder, "xds.yaml")))
}

// accepted returns an error unless Envoy has accepted a version of a file.
func (x *xds) accepted(ctx context.Context, prefix string, version int) error {
	text, err := testbed.Get(ctx, x.admin+"/stats?filter=version_text|update_rejected")
	if err != nil {
		return err
	}
	if !strings.Contains(string(text), fmt.Sprintf("%s.version_text: \"%d\"", prefix, version)) {
		return fmt.Errorf("version %d is not accepted: %s", version, text)
	}
	return nil
}

// updateEnvoy updates the listener and then the routes.
func (m *mixed) updateEnvoy(ctx context.Context, n int) {
	ctx = context.WithoutCancel(ctx)
	version := n + 1
	m.front.changeListener(m.xds.listener, version)
	m.apply(ctx, "lds", "listener_manager.lds", version, m.xds.listener)

	requirement, required := m.flip.scopeRequired.change(func(latest bool) bool { return !latest })
	m.xds.setFlip(required)
	m.apply(ctx, "rds", "http.public.rds.public", version, m.xds.routes)
	// Main has accepted it; each worker applies it in its next turn.
	const workersTurn = time.Second
	<-time.After(workersTurn)
	m.flip.scopeRequired.retire(requirement)
	m.updates.Add(1)
}

func (m *mixed) apply(ctx context.Context, name, prefix string, version int, resource doc) {
	if err := m.xds.write(name, version, resource); err != nil {
		m.t.Error(err)
		return
	}
	if err := testbed.Until(ctx, func() error { return m.xds.accepted(ctx, prefix, version) }); err != nil {
		m.t.Error(err)
	}
}
