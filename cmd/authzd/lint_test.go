package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/phantomrouter/phantom-authz/pkg/envoylint"
)

const shippedEnvoy = "../../envoy/envoy.yaml"

// runLint runs authzd lint and returns its exit code and output.
func runLint(stdin string, args ...string) (code int, out, errs string) {
	var stdout, stderr strings.Builder
	code = lint(args, streams{strings.NewReader(stdin), &stdout, &stderr})
	return code, stdout.String(), stderr.String()
}

func TestLintExitCodes(t *testing.T) {
	text, err := os.ReadFile(shippedEnvoy)
	if err != nil {
		t.Fatal(err)
	}
	open := strings.Replace(string(text), "failure_mode_allow: false", "failure_mode_allow: true", 1)
	config := filepath.Join(t.TempDir(), "authzd.yaml")
	fields := "key_api: {url: http://keyd, token_file: absent.token}\nweb_app: {origin: 'https://other.example'}\nendpoints: [{prefix: /admin, methods: [GET], principal: key}]\n"
	if err := os.WriteFile(config, []byte(fields), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		about, stdin string
		args         []string
		code         int
		out, errs    string
	}{
		{about: "clean", args: []string{shippedEnvoy}, out: "api           /api/v1/me                     upstream  any                      route\n"},
		{about: "standard input", stdin: string(text), args: []string{"-"}, out: "none: denied"},
		{about: "finding", stdin: open, args: []string{"-"}, code: 1, out: "-: static_resources.listeners[0].filter_chains[0].filters[0].typed_config.http_filters[2].typed_config.failure_mode_allow: error: fail-open\n    found:    true\n"},
		{about: "second file", stdin: open, args: []string{shippedEnvoy, "-"}, code: 1, out: "fail-open"},
		{about: "ignored", stdin: open, args: []string{"-ignore", "fail-open,shadow-mode", "-"}},
		{about: "another origin", args: []string{"-config", config, shippedEnvoy}, code: 1, out: "required: allow_origin_string_match with one exact origin, web_app.origin of authzd: https://other.example\n"},
		{about: "endpoints", args: []string{"-config", config, shippedEnvoy}, code: 1, out: "GET /admin/*                             key                       endpoints of authzd\n"},
		{about: "no listener of that name", args: []string{"-listener", "other", shippedEnvoy}, code: 1, out: "no-manager"},
		{about: "help", args: []string{"-h"}, out: "Exit code: 0 no findings, 1 findings, 2 bad usage"},
		{about: "no file", code: 2, errs: "authzd lint: missing FILE\n"},
		{about: "missing file", args: []string{"absent.yaml"}, code: 2, errs: "absent.yaml: no such file"},
		{about: "not YAML", stdin: "a: [", args: []string{"-"}, code: 2, errs: "authzd lint: -: not YAML or JSON"},
		{about: "unknown flag", args: []string{"-x"}, code: 2, errs: "authzd lint -h lists all flags"},
		{about: "unknown format", args: []string{"-o", "xml", shippedEnvoy}, code: 2, errs: `-o "xml" is invalid: must be text or json`},
		{about: "unknown rule", args: []string{"-ignore", "fail", shippedEnvoy}, code: 2, errs: `-ignore "fail" is invalid: must be names of rules`},
		{about: "invalid configuration", args: []string{"-config", shippedEnvoy, shippedEnvoy}, code: 2, errs: "invalid configuration"},
	} {
		code, out, errs := runLint(c.stdin, c.args...)
		if code != c.code || !strings.Contains(out, c.out) || !strings.Contains(errs, c.errs) || (errs == "") != (c.errs == "") {
			t.Errorf("%s: exit code %d, want %d\n%s\n%s", c.about, code, c.code, out, errs)
		}
	}
}

func TestLintJSON(t *testing.T) {
	for _, stdin := range []string{"", "a: b"} {
		file := shippedEnvoy
		if stdin != "" {
			file = "-"
		}
		code, out, _ := runLint(stdin, "-o", "json", file)
		var report envoylint.Report
		err := json.Unmarshal([]byte(out), &report)
		if err != nil || strings.Contains(out, "null") || (code == 0) != (len(report.Findings) == 0) {
			t.Errorf("exit code %d, %v\n%s", code, err, out)
		}
	}
}
