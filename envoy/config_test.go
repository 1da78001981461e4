package envoy_test

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	"github.com/phantomrouter/phantom-authz/envoy"
)

func TestRenderChangesOnlyAddresses(t *testing.T) {
	shipped, err := os.ReadFile("envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	rendered, err := envoy.Render(envoy.Addresses{
		Listener: "tcp://127.0.0.1:1", Admin: "tcp://127.0.0.1:2", Authz: "tcp://authz.example:3",
		Owners: "tcp://[::1]:4", Upstream: "unix:///run/upstream.sock", Monitor: "tcp://127.0.0.1:5",
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"port_value: 1\n", "port_value: 2\n", "port_value: 5\n", "authz.example", "address: ::1", "/run/upstream.sock"} {
		if !strings.Contains(string(rendered), address) {
			t.Errorf("missing %q in the rendering", address)
		}
	}
	if diff := cmp.Diff(withoutAddresses(t, shipped), withoutAddresses(t, rendered)); diff != "" {
		t.Errorf("more than addresses changed (-shipped +rendered):\n%s", diff)
	}
	untouched, err := envoy.Render(envoy.Addresses{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(decode(t, shipped), decode(t, untouched)); diff != "" {
		t.Errorf("an empty rendering differs:\n%s", diff)
	}
}

// TestRenderListener renders each address for a kernel with and without IPv6.
func TestRenderListener(t *testing.T) {
	type addresses = []map[string]any
	v4 := func(host string) map[string]any { return map[string]any{"address": host, "port_value": 10000} }
	both := map[string]any{"address": "::", "port_value": 10000, "ipv4_compat": true}
	for _, r := range []struct {
		listener string
		ipv6     bool
		want     addresses
	}{
		{"", true, addresses{both}},
		{"", false, addresses{v4("0.0.0.0")}},
		{"tcp://[::]:10000", true, addresses{both}},
		{"tcp://[::]:10000", false, addresses{v4("0.0.0.0")}},
		{"tcp://localhost:10000", true, addresses{v4("127.0.0.1"), v4("::1")}},
		{"tcp://localhost:10000", false, addresses{v4("127.0.0.1")}},
		{"tcp://127.0.0.1:10000", true, addresses{v4("127.0.0.1")}},
		{"tcp://[::1]:10000", true, addresses{v4("::1")}},
	} {
		text, err := envoy.RenderOn(envoy.Addresses{Listener: r.listener}, r.ipv6)
		if err != nil {
			t.Fatal(err)
		}
		listener := decode(t, text)["static_resources"].(map[string]any)["listeners"].([]any)[0].(map[string]any)
		got := addresses{listener["address"].(map[string]any)["socket_address"].(map[string]any)}
		if more, ok := listener["additional_addresses"].([]any); ok {
			for _, a := range more {
				got = append(got, a.(map[string]any)["address"].(map[string]any)["socket_address"].(map[string]any))
			}
		}
		if diff := cmp.Diff(r.want, got); diff != "" {
			t.Errorf("%q, IPv6 %v (-want +got):\n%s", r.listener, r.ipv6, diff)
		}
	}
}

func TestRenderNamesAllInvalidAddresses(t *testing.T) {
	_, err := envoy.Render(envoy.Addresses{
		Listener: "unix:///run/public.sock", Admin: "127.0.0.1:1", Authz: "tcp://127.0.0.1",
		Owners: "unix://run/owners.sock", Upstream: "http://echo:80/", Monitor: "unix:///run/monitor.sock",
	})
	for _, name := range []string{"listener: ", "monitor: ", "admin: ", "authz: ", "owners: ", "upstream: "} {
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

// withoutAddresses removes what Render may change.
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
	for _, listener := range static["listeners"].([]any) {
		remove(listener, "address")
		delete(listener.(map[string]any), "additional_addresses")
	}
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
