package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/phantomrouter/phantom-authz/envoy"
)

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRenderIsRenderModule(t *testing.T) {
	plain, err := envoy.Render(envoy.Addresses{})
	if err != nil {
		t.Fatal(err)
	}
	want, err := envoy.RenderModule(envoy.Addresses{}, map[string]any{"config_file": "/etc/phantom/authzd.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	if err := run([]string{write(t, "envoy.yaml", string(plain)), write(t, "filter.yaml", "config_file: /etc/phantom/authzd.yaml\n")}, &got); err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("differs from RenderModule:\n%s", got.String())
	}
}

// A file without the filter must not be accepted: an Envoy with it would check nothing.
func TestRenderRejectsFilesWithoutExtAuthz(t *testing.T) {
	source, err := os.ReadFile("../envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	fields := write(t, "filter.yaml", "config_file: /etc/phantom/authzd.yaml\n")
	for name, text := range map[string]string{
		"no filter": strings.Replace(string(source), "- name: envoy.filters.http.ext_authz", "- name: other", 1),
		"empty":     "",
		"no list":   "static_resources: {clusters: 1}",
		"no YAML":   "a: b: c",
	} {
		var got strings.Builder
		if err := run([]string{write(t, "envoy.yaml", text), fields}, &got); err == nil || got.Len() > 0 {
			t.Errorf("%s: %v, printed %d bytes", name, err, got.Len())
		}
	}
	if err := run([]string{"../envoy.yaml"}, nil); err == nil {
		t.Error("one argument was accepted")
	}
}
