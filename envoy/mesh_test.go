package envoy_test

import (
	"cmp"
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/phantomrouter/phantom-authz/envoy"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// mesh is an overlay of k8s/overlays, whose translation by the mesh is in testdata/mesh.
type mesh struct {
	name      string
	endpoints string // authzd's configuration with the requirements; "": the routes have them
	corsLast  bool   // ext_authz precedes cors: denials have no CORS headers, and foreign preflights are checked
	noBody    bool   // the 503 of an unreachable authzd has no body
}

var meshes = []mesh{
	{name: "istio", endpoints: istioAuthzd, corsLast: true, noBody: true},
	{name: "istio-envoyfilter", endpoints: istioAuthzd},
	{name: "envoy-gateway"},
}

const istioAuthzd = "../k8s/overlays/istio/config/authzd.yaml"

// onMeshes runs a test for each mesh and version of Envoy.
func onMeshes(t *testing.T, test func(t *testing.T, m mesh, version string)) {
	for _, m := range meshes {
		for _, version := range versions() {
			t.Run(m.name+"-"+version, func(t *testing.T) { test(t, m, version) })
		}
	}
}

// authzd returns the URL of an authzd with the mesh's requirements.
func (m mesh) authzd(t *testing.T, env *environment) string {
	t.Helper()
	if m.endpoints == "" {
		return env.socket("authz")
	}
	text, err := os.ReadFile(m.endpoints)
	if err != nil {
		t.Fatal(err)
	}
	var config struct{ Endpoints []testbed.Config }
	if err := yaml.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	name := unique("authzd")
	env.ownAuthzd(t, name, testbed.Config{"endpoints": append(config.Endpoints, testbed.Config{"path": keyOnly, "principal": "key"})})
	return env.socket(name)
}

// meshProxy runs an Envoy of a version with the mesh's configuration and that upstream, by default the echo server.
func (env *environment) meshProxy(t *testing.T, m mesh, version, authz, upstream string, edits ...edit) *proxy {
	t.Helper()
	ports, err := testbed.FreeAddresses(2)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{setup: setup{version, authzd}, addr: ports[0], admin: ports[1], env: env, corsLast: m.corsLast, adapt: asContract}
	config := m.bootstrap(t, map[string]string{
		"authz": authz, "keyd": env.socket("owners"), "upstream": cmp.Or(upstream, "tcp://"+env.echo),
	}, p)
	for _, edit := range edits {
		edit(config)
	}
	text, err := yaml.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	name := unique("mesh")
	if err := os.WriteFile(env.File(name+".yaml"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	program, err := envoy.Find(t.Context(), p.version, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	if p.Process, err = env.Start(name, exec.Command(program, envoy.Args(env.File(name+".yaml"))...)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Shutdown(5 * time.Second) })
	ctx := context.Background()
	if err := p.Await(ctx, func() error { return testbed.Probe(ctx, "http://"+p.admin+"/ready") }); err != nil {
		t.Fatal(err)
	}
	return p
}

// asContract removes what may differ from the contract behind every mesh: the name of the proxy, and Vary, which only an
// EnvoyFilter can add.
func asContract(a *answer) {
	a.header.Set("Server", "envoy")
	a.header.Set("Vary", "Origin")
}

// bootstrap returns a static configuration with the mesh's listener, routes and clusters. It has no TLS, other addresses, and no
// filter that only Istio's build of Envoy has. urls has the address of each Service.
func (m mesh) bootstrap(t *testing.T, urls map[string]string, p *proxy) map[string]any {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata/mesh", m.name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	mesh := decode(t, text)
	listener := mesh["listener"].(map[string]any)
	listener["address"] = address(t, "tcp://"+p.addr)
	delete(listener, "listener_filters") // of TLS
	chain := listener["filter_chains"].([]any)[0].(map[string]any)
	for _, ofTLS := range []string{"filter_chain_match", "transport_socket", "transport_socket_connect_timeout"} {
		delete(chain, ofTLS)
	}
	var clusters []any
	for _, c := range mesh["clusters"].([]any) {
		cluster := c.(map[string]any)
		service, _ := mesh["services"].(map[string]any)[cluster["name"].(string)].(string)
		if name, _, _ := strings.Cut(service, ":"); urls[name] != "" {
			clusters = append(clusters, static(t, cluster, urls[name]))
		}
	}
	config := map[string]any{
		"admin":            map[string]any{"address": address(t, "tcp://"+p.admin)},
		"static_resources": map[string]any{"listeners": []any{listener}, "clusters": clusters},
	}
	http := manager(config)
	delete(http, "rds")
	http["route_config"] = mesh["routes"]
	var filters []any
	for _, f := range http["http_filters"].([]any) {
		if name := f.(map[string]any)["name"].(string); !strings.HasPrefix(name, "istio.") {
			filters = append(filters, f)
		}
	}
	http["http_filters"] = filters
	return config
}

// static returns the cluster with one endpoint and without TLS.
func static(t *testing.T, cluster map[string]any, url string) map[string]any {
	t.Helper()
	for _, name := range []string{"eds_cluster_config", "transport_socket", "transport_socket_matches", "filters", "dns_lookup_family"} {
		delete(cluster, name)
	}
	cluster["type"] = "STATIC"
	endpoint := map[string]any{"endpoint": map[string]any{"address": address(t, url)}}
	cluster["load_assignment"] = map[string]any{
		"cluster_name": cluster["name"], "endpoints": []any{map[string]any{"lb_endpoints": []any{endpoint}, "load_balancing_weight": 1}},
	}
	options, _ := cluster["typed_extension_protocol_options"].(map[string]any)
	for _, o := range options {
		delete(o.(map[string]any), "auto_config") // ALPN
		if o.(map[string]any)["explicit_http_config"] == nil {
			o.(map[string]any)["explicit_http_config"] = map[string]any{"http_protocol_options": map[string]any{}}
		}
	}
	return cluster
}

// address returns Envoy's form of an address.
func address(t *testing.T, url string) map[string]any {
	t.Helper()
	rendered, err := envoy.Render(envoy.Addresses{Upstream: url})
	if err != nil {
		t.Fatal(err)
	}
	endpoints := cluster(decode(t, rendered), "upstream")["load_assignment"].(map[string]any)["endpoints"].([]any)
	lb := endpoints[0].(map[string]any)["lb_endpoints"].([]any)[0].(map[string]any)
	return lb["endpoint"].(map[string]any)["address"].(map[string]any)
}

// TestMeshesDecideAsTheContract runs the tables of envoy.yaml behind each mesh.
func TestMeshesDecideAsTheContract(t *testing.T) {
	env := shared(t)
	onMeshes(t, func(t *testing.T, m mesh, version string) {
		p := env.meshProxy(t, m, version, m.authzd(t, env), "")
		for name, check := range map[string]func(*testing.T, *proxy){
			"denials": checkDenials, "routes": checkRoutes, "identity": checkIdentityOnly, "never": checkNeverAllowed,
			"paths": checkPathTricks, "normalized": checkPathsNormalized, "spoofs": checkSpoofs,
		} {
			t.Run(name, func(t *testing.T) { check(t, p) })
		}
	})
}

// TestMeshesAnswer503WithoutAuthzd: nothing passes without authzd.
func TestMeshesAnswer503WithoutAuthzd(t *testing.T) {
	env := shared(t)
	onMeshes(t, func(t *testing.T, m mesh, version string) {
		p := env.meshProxy(t, m, version, env.socket("missing"), "")
		got := p.do(t, request{path: companion}.with(webApp, bearer(env.creds.Chat)))
		if !m.noBody {
			unavailable.check(t, got, corsHeaders...)
		} else if got.status != http.StatusServiceUnavailable || got.body != "" {
			t.Errorf("%d %s", got.status, got.body)
		}
	})
}
