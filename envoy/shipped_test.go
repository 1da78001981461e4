package envoy_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	admin "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	bootstrap "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/common/matching/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/matcher/action/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/dynamic_modules/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/fixed_heap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/phantomrouter/phantom-authz/envoy"
)

func TestShippedFileIsValid(t *testing.T) {
	forEach(t, func(t *testing.T, env *environment, s setup) {
		file := "envoy.yaml"
		if s.front == module {
			text, err := env.render(s, envoy.Addresses{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			file = filepath.Join(t.TempDir(), "envoy.yaml")
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		program, err := envoy.Find(t.Context(), s.version, os.Stderr)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program, "--mode", "validate", "-c", file)
		cmd.Env = append(os.Environ(), envoy.ModuleEnv(programs.dir)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// TestShippedFileIsRunning compares the configuration of each running Envoy with envoy.yaml, except for addresses and for
// what the module replaces.
func TestShippedFileIsRunning(t *testing.T) {
	onEach(t, func(t *testing.T, p *proxy) {
		text, err := p.env.render(p.setup, envoy.Addresses{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		document := decode(t, text)
		redact(document)
		body, err := json.Marshal(document)
		if err != nil {
			t.Fatal(err)
		}
		shipped := new(bootstrap.Bootstrap)
		if err := protojson.Unmarshal(body, shipped); err != nil {
			t.Fatal(err)
		}
		blank(shipped)
		running := p.bootstrap(t)
		blank(running)
		if diff := cmp.Diff(shipped, running, protocmp.Transform()); diff != "" {
			t.Errorf("the running configuration differs (-shipped +running):\n%s", diff)
		}
	})
}

// redact replaces the values of context extensions as Envoy's configuration dump does. TestRoutes covers the values.
func redact(value any) {
	switch value := value.(type) {
	case map[string]any:
		for name, inner := range value {
			if extensions, ok := inner.(map[string]any); ok && name == "context_extensions" {
				for name := range extensions {
					extensions[name] = "[redacted]"
				}
			}
			redact(inner)
		}
	case []any:
		for _, inner := range value {
			redact(inner)
		}
	}
}

func (p *proxy) bootstrap(t *testing.T) *bootstrap.Bootstrap {
	t.Helper()
	var dump struct{ Configs []json.RawMessage }
	if err := json.Unmarshal(p.adminPage(t, "/config_dump"), &dump); err != nil {
		t.Fatal(err)
	}
	options := protojson.UnmarshalOptions{DiscardUnknown: true}
	for _, config := range dump.Configs {
		var found admin.BootstrapConfigDump
		var kind struct {
			Type string `json:"@type"`
		}
		if json.Unmarshal(config, &kind) != nil || kind.Type != "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump" {
			continue
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(config, &fields); err != nil {
			t.Fatal(err)
		}
		delete(fields, "@type")
		plain, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		if err := options.Unmarshal(plain, &found); err != nil {
			t.Fatal(err)
		}
		return found.GetBootstrap()
	}
	t.Fatal("no bootstrap configuration in the dump")
	return nil
}

// blank removes what Render may change and what Envoy adds.
func blank(b *bootstrap.Bootstrap) {
	b.Node = nil
	b.Admin.Address = nil
	for _, l := range b.GetStaticResources().GetListeners() {
		l.Address, l.AdditionalAddresses = nil, nil
	}
	for _, c := range b.GetStaticResources().GetClusters() {
		c.ClusterDiscoveryType, c.DnsLookupFamily = nil, clusterv3.Cluster_AUTO
		c.LoadAssignment.Endpoints[0].LbEndpoints[0].GetEndpoint().Address = nil
	}
}
