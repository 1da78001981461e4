package envoy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/envoylint"
)

// patched are the tested versions that have the newest fixes.
const patched = "1.39.1 1.39.2 1.39.3 1.40.0"

// TestConfigDumpIsClean: authzd lint finds nothing in what a real Envoy reports about the shipped file, apart from versions
// without the newest fixes, and it finds a mistake.
func TestConfigDumpIsClean(t *testing.T) {
	onEach(t, func(t *testing.T, p *proxy) {
		options := envoylint.Options{Origin: "https://app.phantomrouter.ai", KeyAPITimeout: 400 * time.Millisecond}
		dump := p.adminPage(t, "/config_dump?include_eds")
		report, err := envoylint.Lint("config_dump", dump, options)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range report.Findings {
			if f.Rule != "envoy-version" || strings.Contains(patched, p.version) {
				t.Errorf("%+v", f)
			}
		}
		if len(report.Routes) != 12 || report.Routes[11].Requirement != "none: denied" || report.Routes[0].Requirement == "none: denied" {
			t.Errorf("%+v", report.Routes)
		}
		for rule, edit := range map[string][2]string{
			"path-normalization": {`"merge_slashes": true`, `"merge_slashes": false`},
			"catch-all-host":     {`"domains": [`, `"domains": [], "x": [`},
			"cors-credentials":   {`"allow_credentials": true`, `"allow_credentials": false`},
		} {
			mutated := strings.ReplaceAll(string(dump), edit[0], edit[1])
			report, err := envoylint.Lint("config_dump", []byte(mutated), options)
			if err != nil || mutated == string(dump) || len(report.Findings) == 0 || report.Findings[0].Rule != rule {
				t.Errorf("%s: %v %+v", rule, err, report.Findings)
			}
		}
	})
}
