package envoy_test

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	"github.com/phantomrouter/phantom-authz/envoy"
)

func TestRenderModuleReplacesExtAuthz(t *testing.T) {
	text, err := envoy.RenderModule(envoy.Addresses{}, map[string]any{"key_api": map[string]any{"url": "http://keyd"}})
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		// The namespace of the metadata and the details of denials stay the same, so that the access log does.
		if strings.Contains(line, "ext_authz") && !strings.Contains(line, "%DYNAMIC_METADATA(") && !strings.Contains(line, "response.code_details") {
			t.Errorf("ext_authz is left: %s", line)
		}
	}
	config := decode(t, text)
	for _, cluster := range config["static_resources"].(map[string]any)["clusters"].([]any) {
		if name := cluster.(map[string]any)["name"]; name == "authz" {
			t.Error("the cluster of authzd is left")
		}
	}
	want := map[string]any{
		"@type":                 "type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter",
		"dynamic_module_config": map[string]any{"name": "phantom_authz", "do_not_close": true},
		"filter_name":           "phantom_authz",
		"filter_config":         map[string]any{"@type": "type.googleapis.com/google.protobuf.Struct", "value": map[string]any{"key_api": map[string]any{"url": "http://keyd"}}},
	}
	if diff := cmp.Diff(want, httpFilter(config, moduleFilter)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestRenderModuleMergesRequirements: ext_authz merges the requirements of a virtual host and a route, Envoy does not
// merge those of a module. A route that is not checked has no requirement.
func TestRenderModuleMergesRequirements(t *testing.T) {
	shipped, err := os.ReadFile("envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	perRoute := func(fields map[string]any) map[string]any { return map[string]any{authzFilter: fields} }
	requires := func(extensions map[string]any) map[string]any {
		return perRoute(map[string]any{"check_settings": map[string]any{"context_extensions": extensions}})
	}
	config := decode(t, shipped)
	host := virtualHost(config)
	host["typed_per_filter_config"] = requires(map[string]any{"principal": "session", "scope": "a"})
	host["routes"] = []any{
		map[string]any{"typed_per_filter_config": requires(map[string]any{"scope": "b"})},
		map[string]any{"typed_per_filter_config": requires(map[string]any{"principal": "key"})},
		map[string]any{"typed_per_filter_config": perRoute(map[string]any{"disabled": true})},
		map[string]any{},
	}
	text, err := yaml.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if text, err = envoy.UseModule(text, nil); err != nil {
		t.Fatal(err)
	}
	host = virtualHost(decode(t, text))
	var got []any
	for _, in := range append([]any{host}, host["routes"].([]any)...) {
		settings, _ := in.(map[string]any)["typed_per_filter_config"].(map[string]any)
		if settings == nil {
			got = append(got, nil)
			continue
		}
		own := settings[moduleFilter].(map[string]any)
		if config, ok := own["filter_config"].(map[string]any); ok {
			got = append(got, config["value"])
		} else {
			delete(own, "@type")
			got = append(got, own)
		}
	}
	want := []any{
		map[string]any{"principal": "session", "scope": "a"},
		map[string]any{"principal": "session", "scope": "b"},
		map[string]any{"principal": "key", "scope": "a"},
		map[string]any{"disabled": true},
		nil,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
