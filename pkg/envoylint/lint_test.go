package envoylint

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/phantomrouter/phantom-authz/envoy"
	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

// TestShippedFilesAreClean: envoy.yaml, what Render makes of it, and the files for Kubernetes.
func TestShippedFilesAreClean(t *testing.T) {
	files := map[string][]byte{}
	for _, folder := range []string{"../../envoy", "../../k8s"} {
		err := filepath.WalkDir(folder, func(name string, _ fs.DirEntry, err error) error {
			if err == nil && filepath.Base(name) == "envoy.yaml" {
				files[name], err = os.ReadFile(name)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(files) < 3 {
		t.Errorf("%d files: must be envoy.yaml and those for Kubernetes", len(files))
	}
	var err error
	if files["Render"], err = envoy.Render(envoy.Addresses{Authz: "tcp://127.0.0.1:9191"}); err != nil {
		t.Fatal(err)
	}
	if files["RenderModule"], err = envoy.RenderModule(envoy.Addresses{}, map[string]any{"config_file": "/authzd.yaml"}); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		report, err := Lint(name, text, shippedOptions)
		if err != nil || len(report.Findings) > 0 {
			t.Errorf("%s: %v %+v", name, err, report.Findings)
		}
		var requirements []string
		for _, r := range report.Routes {
			requirements = append(requirements, r.Match+" "+r.Requirement)
		}
		if len(requirements) != 12 || requirements[0] != "/api/v1/chat/* any with chat:companion" || requirements[11] != "/* none: denied" {
			t.Errorf("%s: %q", name, requirements)
		}
	}
}

// aManager is a configuration with a listener for the routes.
func aManager(routes string) string {
	text, err := os.ReadFile(shipped)
	if err != nil {
		panic(err)
	}
	at := strings.Index(string(text), "              routes:\n")
	end := strings.Index(string(text), "\n  clusters:\n")
	return string(text[:at]) + "              routes: " + routes + "\n" + string(text[end:])
}

func TestRouteTable(t *testing.T) {
	const extAuthz = `typed_per_filter_config: {envoy.filters.http.ext_authz: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, `
	text := aManager(`[
		{match: {path: /a, headers: [{name: x}]}, route: {cluster: c}, ` + extAuthz + `check_settings: {context_extensions: {principal: key, scope: "b a"}}}}},
		{match: {safe_regex: {regex: /b}}, redirect: {}, ` + extAuthz + `disabled: true}}},
		{match: {prefix: /c}, direct_response: {status: 200}, ` + extAuthz + `check_settings: {context_extensions: {principal: nobody}}}}},
		{match: {connect_matcher: {}}, route: {weighted_clusters: {clusters: []}}},
		{match: {prefix: /}, route: {cluster: c}}]`)
	text = strings.ReplaceAll(text, "\t", strings.Repeat(" ", 16))
	options := shippedOptions
	rows := func() (rows []string) {
		report, err := Lint("f", []byte(text), options)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range report.Routes {
			rows = append(rows, strings.Join([]string{r.Listener, r.Host, r.Match, r.To, r.Requirement, r.Source}, "|"))
		}
		return rows
	}
	want := []string{
		"public|api|/a +1|c|key with b a|route",
		"public|api|regex /b|redirect|not checked|disabled",
		"public|api|/c*|direct response|invalid: denied|route",
		`public|api|{"connect_matcher":{}}|several clusters|none: denied|-`,
		"public|api|/*|c|none: denied|-",
	}
	if diff := cmp.Diff(want, rows()); diff != "" {
		t.Error(diff)
	}
	options.Endpoints = []policy.Endpoint{{Path: "/a", Methods: []string{"GET"}, Requirement: policy.NewRequirement(policy.Any, "s")}}
	want[3] = strings.Replace(want[3], "none: denied|-", "by method, host and path|endpoints of authzd", 1)
	want[4] = "public|api|/*|c|by method, host and path|endpoints of authzd"
	if diff := cmp.Diff(want, rows()); diff != "" {
		t.Error(diff)
	}
}

// Requirements of a virtual host and its route are merged by ext_authz.
func TestRequirementsOfLevelsAreMerged(t *testing.T) {
	const settings = `{envoy.filters.http.ext_authz: {"@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, check_settings: {context_extensions: {%s}}}}`
	text := aManager(`[{match: {prefix: /}, route: {cluster: c}, typed_per_filter_config: ` + fmt.Sprintf(settings, "scope: a") + `}]`)
	text = strings.Replace(text, "            name: public\n            virtual_hosts", "            name: public\n            typed_per_filter_config: "+fmt.Sprintf(settings, "principal: session, scope: b")+"\n            virtual_hosts", 1)
	report, err := Lint("f", []byte(text), shippedOptions)
	if err != nil || len(report.Routes) != 1 || report.Routes[0].Requirement != "session with a" {
		t.Errorf("%v %+v", err, report)
	}
}

func TestAdminListenerNeedsNoCheck(t *testing.T) {
	const listener = `{admin: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}}, static_resources: {
		listeners: [{name: metrics, filter_chains: [{filters: [{name: h, typed_config: {"@type": type.googleapis.com/` + managerType + `,
			http_filters: [{name: r}],
			route_config: {virtual_hosts: [{name: m, domains: ["*"], routes: [{match: {MATCH}, route: {cluster: a}}, {match: {prefix: /}, direct_response: {status: 404}}]}]}}}]}]}],
		clusters: [{name: a, load_assignment: {endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: PORT}}}}]}]}}]}}`
	for _, c := range []struct{ match, port, want string }{
		{"path: /ready", "9901", ""},
		{"prefix: /", "9901", "admin-exposed"},
		{"path: /ready", "9902", "check-missing"},
	} {
		text := strings.NewReplacer("MATCH", c.match, "PORT", c.port, "\t", "").Replace(listener)
		if got := strings.Join(rulesOf(t, text, shippedOptions), " "); got != c.want {
			t.Errorf("%s at %s: reported by %q, want %q", c.match, c.port, got, c.want)
		}
	}
	unrouted := strings.NewReplacer("route: {cluster: a}", "direct_response: {status: 200}", "MATCH", "prefix: /", "PORT", "1", "\t", "").Replace(listener)
	if got := rulesOf(t, unrouted, shippedOptions); len(got) > 0 {
		t.Errorf("a listener without a cluster is reported by %v", got)
	}
}

// A file without what is checked must not pass.
func TestFileWithoutManagerIsReported(t *testing.T) {
	for _, text := range []string{"a: b", "{}", "[]", `{"configs": []}`} {
		if got := rulesOf(t, text, shippedOptions); !slices.Equal(got, []string{"no-manager"}) {
			t.Errorf("%s is reported by %v", text, got)
		}
	}
}

func TestUnreadableFiles(t *testing.T) {
	for _, text := range []string{"", "text", "a: [", "a: b\n---\nc: d\n", "{} {}", "\x00"} {
		if report, err := Lint("f", []byte(text), shippedOptions); err == nil {
			t.Errorf("%q: %+v", text, report)
		}
	}
}

func TestIgnoreAndListeners(t *testing.T) {
	text, err := os.ReadFile(shipped)
	if err != nil {
		t.Fatal(err)
	}
	open := strings.Replace(string(text), "failure_mode_allow: false", "failure_mode_allow: true", 1)
	options := shippedOptions
	options.Ignore = []string{"fail-open"}
	if got := rulesOf(t, open, options); len(got) > 0 {
		t.Errorf("reported although ignored: %v", got)
	}
	options.Ignore, options.Listeners = nil, []string{"public"}
	if got := rulesOf(t, open, options); !slices.Equal(got, []string{"fail-open"}) {
		t.Errorf("of the listener public: %v", got)
	}
	options.Listeners = []string{"other"}
	if got := rulesOf(t, open, options); !slices.Equal(got, []string{"no-manager"}) {
		t.Errorf("of another listener: %v", got)
	}
}

func TestRulesAreComplete(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Rules() {
		if seen[r.Name] || r.Name == "" || r.Required == "" || r.Why == "" || r.Severity != Error && r.Severity != Warning {
			t.Errorf("%+v", r)
		}
		seen[r.Name] = true
	}
}

// A name from the file cannot write to a terminal.
func TestOutputIsPrintable(t *testing.T) {
	text := strings.NewReplacer("name: api\n", `name: "api\x1b[31m"`+"\n", "domains: [\"*\"]", "domains: [a]").Replace(aManager("[{match: {prefix: /a}, route: {cluster: c}}]"))
	report, err := Lint("f", []byte(text), shippedOptions)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := report.WriteFindings(&out); err != nil || !strings.Contains(out.String(), "catch-all-host") || strings.Contains(out.String(), "\x1b") {
		t.Errorf("%v %q", err, out.String())
	}
}

// The seeds are short: the fuzzer shortens what it finds, one byte after the other.
func FuzzLint(f *testing.F) {
	f.Add([]byte(dump(`{"version": {"major_number": 1}}`)))
	f.Add([]byte("static_resources: {clusters: [&a {name: a, <<: *a}]}\n1: 2\n"))
	f.Add([]byte(`{"@type": "x/` + managerType + `", "http_filters": [{"typed_config": 1}, []], "route_config": {"virtual_hosts": [1]}}`))
	f.Fuzz(func(_ *testing.T, data []byte) {
		if report, err := Lint("f", data, shippedOptions); err == nil {
			_ = report.WriteFindings(new(strings.Builder))
			_ = report.WriteRoutes(new(strings.Builder), nil)
		}
	})
}
