package envoy_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/phantomrouter/phantom-authz/envoy"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// discovery is a running Envoy that reads its listener and its routes from files.
type discovery struct {
	*proxy
	config []byte // as rendered
	dir    string
}

// fromFiles is an edit that moves the listener and the routes into files.
func (d *discovery) fromFiles(t *testing.T) edit {
	return func(config map[string]any) {
		var err error
		if d.config, err = yaml.Marshal(config); err != nil {
			t.Fatal(err)
		}
		d.update(t)
		config["node"] = map[string]any{"id": "test", "cluster": "test"}
		config["dynamic_resources"] = map[string]any{"lds_config": d.source("listeners")}
		delete(config["static_resources"].(map[string]any), "listeners")
	}
}

func (d *discovery) source(name string) map[string]any {
	return map[string]any{"path_config_source": map[string]any{
		"path": filepath.Join(d.dir, name+".yaml"), "watched_directory": map[string]any{"path": d.dir},
	}}
}

// update writes the files of the rendered configuration with those edits.
func (d *discovery) update(t *testing.T, edits ...edit) {
	t.Helper()
	config := decode(t, d.config)
	for _, edit := range edits {
		edit(config)
	}
	m := manager(config)
	routes := m["route_config"].(map[string]any)
	delete(m, "route_config")
	m["rds"] = map[string]any{"route_config_name": "public", "config_source": d.source("routes")}
	d.write(t, "routes", "type.googleapis.com/envoy.config.route.v3.RouteConfiguration", routes)
	listener := config["static_resources"].(map[string]any)["listeners"].([]any)[0].(map[string]any)
	d.write(t, "listeners", "type.googleapis.com/envoy.config.listener.v3.Listener", listener)
}

// write replaces a file. Envoy watches for that.
func (d *discovery) write(t *testing.T, name, kind string, resource map[string]any) {
	t.Helper()
	resource["@type"] = kind
	text, err := yaml.Marshal(map[string]any{"resources": []any{resource}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(d.dir, name+".yaml")
	if err := errors.Join(os.WriteFile(file+".new", text, 0o600), os.Rename(file+".new", file)); err != nil {
		t.Fatal(err)
	}
}

// virtualHost returns the only virtual host of a configuration.
func virtualHost(config map[string]any) map[string]any {
	return manager(config)["route_config"].(map[string]any)["virtual_hosts"].([]any)[0].(map[string]any)
}

// meSettings returns the settings of filters for the route of /api/v1/me.
func meSettings(config map[string]any) map[string]any {
	for _, r := range virtualHost(config)["routes"].([]any) {
		r := r.(map[string]any)
		if r["match"].(map[string]any)["path"] == "/api/v1/me" {
			return r["typed_per_filter_config"].(map[string]any)
		}
	}
	panic("no route of /api/v1/me")
}

// require is an edit of the requirement of /api/v1/me.
func require(fields map[string]any) edit {
	return func(config map[string]any) {
		perRoute := meSettings(config)[moduleFilter].(map[string]any)
		perRoute["filter_config"].(map[string]any)["value"] = fields
	}
}

const moduleFilter = "phantom_authz"

// moduleField is an edit of a field of the module's configuration.
func moduleField(name string, value any) edit {
	return func(config map[string]any) {
		fields := httpFilter(config, moduleFilter)["filter_config"].(map[string]any)["value"].(map[string]any)
		fields[name] = value
	}
}

// TestUpdatesKeepTheCache: after an update of the listener or the routes the new requirement applies, and the cache
// answers without the key API. An update that the module rejects changes nothing.
func TestUpdatesKeepTheCache(t *testing.T) {
	forEach(t, func(t *testing.T, env *environment, s setup) {
		k := env.slowKeyAPI(t)
		d := &discovery{dir: t.TempDir()}
		d.proxy = env.withKeyAPI(t, s, k, envoy.Addresses{}, d.fromFiles(t))
		me := request{path: "/api/v1/me"}.with(bearer(env.creds.Plain))
		await := func(what string, matches func(answer) bool) {
			t.Helper()
			eventually(t, what, func() error {
				if got := d.do(t, me); !matches(got) {
					return fmt.Errorf("%d %s", got.status, got.body)
				}
				return nil
			})
		}
		allowed := func(a answer) bool { return a.reached() }
		denied := func(row denial) func(answer) bool {
			return func(a answer) bool { return a.status == row.status && a.body == row.body() }
		}
		await("the first look-up", allowed)
		lookUps := k.lookUps.Load()
		k.hold()

		needsSession := require(map[string]any{"principal": "session"})
		d.update(t, needsSession)
		await("the routes change", denied(sessionRequired))
		d.update(t, require(map[string]any{"scope": "chat:companion"}), moduleField("log", map[string]any{"level": "info"}))
		await("routes and listener change", denied(scopeMissing))
		d.update(t)
		await("both change back", allowed)

		for _, rejected := range []struct {
			edit
			stat, message string
		}{
			{require(map[string]any{"principal": "nobody"}), "http.public.rds.public.update_rejected", "principal is invalid: must be any, key or session"},
			{moduleField("drain", "0"), "listener_manager.lds.update_rejected", "drain is invalid"},
			{moduleField("key_api", map[string]any{"url": k.url, "token_file": "/missing"}), "listener_manager.lds.update_rejected", "key_api.token_file: stat /missing: no such file or directory"},
		} {
			before := d.stat(t, rejected.stat)
			d.update(t, rejected.edit)
			eventually(t, "the update is rejected: "+rejected.message, func() error {
				if d.stat(t, rejected.stat) == before {
					return errors.New("it is not")
				}
				return nil
			})
			if !strings.Contains(d.Output(), rejected.message) {
				t.Errorf("Envoy's log does not contain %q", rejected.message)
			}
			await("the configuration before a rejected update", allowed)
			d.update(t)
		}
		d.update(t, needsSession)
		await("an update after rejected ones", denied(sessionRequired))

		if n := k.lookUps.Load(); n != lookUps {
			t.Errorf("%d look-ups during updates", n-lookUps)
		}
		if n := strings.Count(d.Output(), `"msg":"started"`); n != 1 {
			t.Errorf("the engine was started %d times", n)
		}
		if n := k.deregisters.Load(); n != 0 {
			t.Errorf("the engine deregistered %d times", n)
		}
	})
}

// TestInvalidConfigurationIsRefused: Envoy does not start, and its log has the messages that authzd prints.
func TestInvalidConfigurationIsRefused(t *testing.T) {
	forEach(t, func(t *testing.T, env *environment, s setup) {
		for name, changes := range map[string]testbed.Config{
			"many mistakes": {"drain": "5h", "unknown": 1, "web_app": testbed.Config{"origin": "x"}, "key_api": testbed.Config{"url": "ftp://x"}},
			"missing token": {"key_api": testbed.Config{"url": "http://127.0.0.1:1", "token_file": "/missing/key-api.token"}},
			"missing URL":   {"key_api": testbed.Config{}},
		} {
			messages := env.mistakes(t, changes)
			p, err := env.launch(unique("refused"), s, envoy.Addresses{}, changes)
			if err != nil {
				t.Fatal(err)
			}
			if code, err := p.Wait(); code == 0 || err != nil {
				t.Errorf("%s: exit code %d, %v", name, code, err)
			}
			for _, message := range messages {
				if !strings.Contains(p.Output(), message) {
					t.Errorf("%s: Envoy's log does not contain %q:\n%s", name, message, p.Output())
				}
			}
		}
	})
}

// mistakes returns the messages of authzd for that configuration.
func (env *environment) mistakes(t *testing.T, changes testbed.Config) (messages []string) {
	t.Helper()
	fields := env.ModuleConfig(checkConfig(changes))
	listen := maps.Clone(fields["listen"].(testbed.Config))
	listen["check"] = []string{env.socket("unused")}
	fields["listen"] = listen
	text, err := yaml.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	file := env.File(unique("mistakes") + ".yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := env.Command(t.Context(), "authzd", "-check", "-config", file).CombinedOutput()
	if err == nil {
		t.Fatalf("authzd accepts it: %s", out)
	}
	for line := range bytes.Lines(out) {
		if _, message, ok := strings.Cut(string(line), ": "); ok && strings.HasPrefix(string(line), file) {
			messages = append(messages, strings.TrimSpace(message))
		}
	}
	if len(messages) == 0 {
		t.Fatalf("authzd prints no mistake: %s", out)
	}
	return messages
}

// TestInvalidRouteIsRefused: so is a route whose requirement has a mistake.
func TestInvalidRouteIsRefused(t *testing.T) {
	forEach(t, func(t *testing.T, env *environment, s setup) {
		for message, fields := range map[string]map[string]any{
			"principal is invalid: must be any, key or session": {"principal": "nobody"},
			"unknown field scopes: did you mean scope?":         {"scopes": "a"},
			"scope is invalid":                 {"scope": `a"b`},
			"missing field scope or principal": {},
		} {
			p, err := env.launch(unique("refused"), s, envoy.Addresses{}, nil, require(fields))
			if err != nil {
				t.Fatal(err)
			}
			if code, err := p.Wait(); code == 0 || err != nil {
				t.Errorf("%v: exit code %d, %v", fields, code, err)
			}
			if !strings.Contains(p.Output(), message) {
				t.Errorf("Envoy's log does not contain %q:\n%s", message, p.Output())
			}
		}
	})
}
