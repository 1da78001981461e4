package sidecar

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/config"
	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

func TestRulesContainConfiguration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "authzd.yaml")
	text := `
key_api: {url: 'http://127.0.0.1:8080', timeout: 3s}
web_app: {origin: 'https://a.example', cookie: s, scopes: [x]}
keys: {foreign_format: refuse}
endpoints: [{path: '/a%2Eb', host: B.Example, principal: session}, {prefix: /c}]
shadow: true
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.LoadAuthzd(path)
	if err != nil {
		t.Fatal(err)
	}
	rules, err := rulesOf(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if rules.KeyAPITimeout != 3*time.Second || rules.Origin != "https://a.example" || rules.CookieName != "s" ||
		!rules.SessionScopes.Has("x") || !rules.RefuseForeign || !rules.Shadow {
		t.Errorf("%+v", rules)
	}
	if got := rules.Endpoints.Match("GET", "b.example", "/a.b"); got.Principal != policy.SessionOnly {
		t.Errorf("/a.b requires %v", got)
	}
	if got := rules.Endpoints.Match("GET", "x", "/c/d"); got.Principal != policy.Any {
		t.Errorf("/c/d requires %v", got)
	}
}
