package config

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

// TestEndpointsInAnySpelling: an entry with capitals in its host or an escape in its path matches
// requests in every spelling.
func TestEndpointsInAnySpelling(t *testing.T) {
	path := filepath.Join(t.TempDir(), "authzd.yaml")
	text := `
key_api: {url: 'http://127.0.0.1:8080'}
endpoints:
  - {prefix: /, principal: any}
  - {path: '/a%2Eb', host: B.Example, principal: session}
  - {prefix: '/%63', principal: session}
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := LoadAuthzd(path)
	if err != nil {
		t.Fatal(err)
	}
	var entries []policy.Endpoint
	for _, e := range cfg.Endpoints {
		entries = append(entries, e.Entry())
	}
	table, err := policy.NewEndpoints(entries)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		host, target string
		want         policy.Principal
	}{
		{"b.example", "/a.b", policy.SessionOnly},
		{"B.EXAMPLE.:80", "/a%2eb?c", policy.SessionOnly},
		{"c.example", "/a.b", policy.NoPrincipal},
		{"c.example", "/c/d", policy.SessionOnly},
		{"c.example", "/d", policy.Any},
	} {
		if got := table.Match("GET", tt.host, tt.target); got.Principal != tt.want {
			t.Errorf("%s %s: %v, want %v", tt.host, tt.target, got.Principal, tt.want)
		}
	}
}
