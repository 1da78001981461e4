package envoy_test

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/phantomrouter/phantom-authz/envoy"
)

// TestRenderChangesOnlyAddresses blanks the five addresses in envoy.yaml and in a
// rendering that changes all of them: the rest must be equal.
func TestRenderChangesOnlyAddresses(t *testing.T) {
	shipped, err := os.ReadFile("envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	rendered, err := envoy.Render(envoy.Addresses{
		Listener: "tcp://127.0.0.1:1", Admin: "tcp://127.0.0.1:2", Authz: "tcp://authz.example:3",
		Owners: "tcp://[::1]:4", Upstream: "unix:///run/upstream.sock",
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"port_value: 1\n", "port_value: 2\n", "authz.example", "address: ::1", "/run/upstream.sock"} {
		if !strings.Contains(string(rendered), address) {
			t.Errorf("the rendering lacks %q", address)
		}
	}
	if diff := cmp.Diff(withoutAddresses(t, shipped), withoutAddresses(t, rendered)); diff != "" {
		t.Errorf("envoy.yaml and its rendering differ in more than addresses (-shipped +rendered):\n%s", diff)
	}
	untouched, err := envoy.Render(envoy.Addresses{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(decode(t, shipped), decode(t, untouched)); diff != "" {
		t.Errorf("rendering nothing changed something:\n%s", diff)
	}
}

func TestRenderRefusesBadAddresses(t *testing.T) {
	_, err := envoy.Render(envoy.Addresses{
		Listener: "unix:///run/public.sock", Admin: "127.0.0.1:1", Authz: "tcp://127.0.0.1",
		Owners: "unix://run/owners.sock", Upstream: "http://echo:80/",
	})
	for _, name := range []string{"listener: ", "admin: ", "authz: ", "owners: ", "upstream: "} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v does not name %q", err, name)
		}
	}
}

func decode(t *testing.T, text []byte) map[string]any {
	t.Helper()
	var doc map[string]any
	if err := yaml.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

// withoutAddresses removes exactly what Render may change.
func withoutAddresses(t *testing.T, text []byte) map[string]any {
	t.Helper()
	doc := decode(t, text)
	remove := func(from any, name string) {
		m := from.(map[string]any)
		if _, ok := m[name]; !ok {
			t.Fatalf("no %s in %v", name, m)
		}
		delete(m, name)
	}
	remove(doc["admin"], "address")
	static := doc["static_resources"].(map[string]any)
	remove(static["listeners"].([]any)[0], "address")
	for _, c := range static["clusters"].([]any) {
		cluster := c.(map[string]any)
		remove(cluster, "type")
		delete(cluster, "dns_lookup_family")
		endpoints := cluster["load_assignment"].(map[string]any)["endpoints"].([]any)
		lb := endpoints[0].(map[string]any)["lb_endpoints"].([]any)
		remove(lb[0].(map[string]any)["endpoint"], "address")
	}
	return doc
}
