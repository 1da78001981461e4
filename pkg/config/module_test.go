package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
)

// The fields of the module are those of authzd without its listeners for checks, with the same
// mistakes in the same words.
func TestModuleHasTheMistakesOfAuthzd(t *testing.T) {
	for _, text := range []string{
		"key_api: {url: 'ftp://x', timeout: 0, chanjes: optional}\nshadow: 3",
		"key_api: {url: 'http://a', tls: {ca_file: /no/file}}",
		"cache: {credentials: 0, max_age: 1}\nadmission: {burst: x}",
		"web_app: {origin: 'https://a/b', cookie: 'a b', scopes: ['\"']}\nkeys: {foreign_format: x}",
		"key_api: {url: 'http://a'}\nendpoints: [{path: /a, prefix: /a}, {path: b}, {}, {path: /x, principal: me}, {path: /d}, {path: /d}]",
		"listen: {admin: 'udp://x'}\nlog: {level: loud}\ndrain: 1ms\nstart_wait: 11m\ndrain_delay: -1s",
		"key_api: 3\nlisten: []",
		"a: &a [*a]",
		"{", "[]", "3", "\x00", "",
	} {
		path := filepath.Join(t.TempDir(), "authzd.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, want := LoadAuthzd(path)
		_, _, got := LoadModule([]byte(text))
		_, file := LoadModuleFile(path)
		if want == nil || got == nil || file == nil {
			t.Errorf("%q: authzd %v, module %v, its file %v", text, want, got, file)
			continue
		}
		if file.Error() != want.Error() {
			t.Errorf("%q (-authzd +module's file):\n%s", text, cmp.Diff(want.Error(), file.Error()))
		}
		if labelled := strings.ReplaceAll(want.Error(), path, "filter_config"); got.Error() != labelled {
			t.Errorf("%q (-authzd +module):\n%s", text, cmp.Diff(labelled, got.Error()))
		}
	}
}

func TestModuleHasNoCheckListeners(t *testing.T) {
	const rest = "key_api: {url: 'http://a'}\nlisten: "
	for text, want := range map[string][]string{
		"{check: ['tcp://127.0.0.1:1']}":                    {"listen.check"},
		"{check: []}":                                       {"listen.check"},
		"{tls: {cert_file: /no/c, key_file: /no/k}}":        {"listen.tls"},
		"{check: [x], tls: {}, admin: 'tcp://127.0.0.1:1'}": {"listen.check", "listen.tls"},
		"{admin: 'tcp://127.0.0.1:1'}":                      nil,
		"{}":                                                nil,
	} {
		_, _, err := LoadModule([]byte(rest + text))
		if (err == nil) != (want == nil) {
			t.Errorf("%s: %v", text, err)
			continue
		}
		for _, field := range want {
			if !strings.Contains(err.Error(), field+" is invalid: must be absent: Envoy calls the module without a listener") {
				t.Errorf("%s: %v", text, err)
			}
		}
	}
}

func TestModuleHasNoTracing(t *testing.T) {
	_, _, err := LoadModule([]byte("key_api: {url: 'http://a'}\ntracing: {otlp: 'http://127.0.0.1:4318'}"))
	if err == nil || !strings.Contains(err.Error(), "tracing is invalid: must be absent: Envoy gives the module no span") {
		t.Error(err)
	}
}

// Envoy renders a Struct as JSON, whose numbers are doubles.
func TestModuleReadsAStruct(t *testing.T) {
	fields := map[string]any{
		"listen":    map[string]any{"admin": "tcp://[::1]:9903"},
		"key_api":   map[string]any{"url": "unix:///run/k.sock", "timeout": "250ms", "changes": "optional"},
		"cache":     map[string]any{"credentials": 1e6, "unknown": 400.0, "max_age": "2h", "max_stale": 0.0},
		"admission": map[string]any{"unknown_per_second": 1e5, "burst": 7.0},
		"web_app":   map[string]any{"origin": "https://a.example", "cookie": "s", "scopes": []any{"a", "b:c"}},
		"endpoints": []any{map[string]any{"path": "/a", "scope": "", "principal": "key", "methods": []any{"GET"}}},
		"shadow":    true,
	}
	message, err := structpb.NewStruct(fields)
	if err != nil {
		t.Fatal(err)
	}
	json, err := protojson.MarshalOptions{Multiline: true}.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	want := readYAML(t, `
listen: {admin: "tcp://[::1]:9903"}
key_api: {url: unix:///run/k.sock, timeout: 250ms, changes: optional}
cache: {credentials: 1000000, unknown: 400, max_age: 2h, max_stale: 0}
admission: {unknown_per_second: 100000, burst: 7}
web_app: {origin: https://a.example, cookie: s, scopes: [a, "b:c"]}
endpoints: [{path: /a, scope: "", principal: key, methods: [GET]}]
shadow: true
`)
	escaped := strings.NewReplacer("https://", `https:\/\/`, `"/a"`, `"\/a"`, `"a"`, `"\u0061"`).Replace(string(json))
	for _, text := range []string{string(json), escaped} {
		got, file, err := LoadModule([]byte(text))
		if err != nil || file != "" {
			t.Fatalf("%v, file %q, of\n%s", err, file, text)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(Address{})); diff != "" {
			t.Errorf("(-YAML +JSON):\n%s", diff)
		}
	}
	// No version of protobuf in Envoy renders a whole number below 1e15 so. It must not be read as another.
	for _, number := range []string{"1e6", "1e+06", "1000000.0", "1.5"} {
		if _, _, err := LoadModule(fmt.Appendf(nil, `{"key_api":{"url":"http://a"},"cache":{"credentials":%s}}`, number)); err == nil {
			t.Errorf("%s was accepted", number)
		}
	}
}

func readYAML(t *testing.T, text string) *Authzd {
	t.Helper()
	cfg, _, err := LoadModule([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestModuleByFile(t *testing.T) {
	dir := folder(t, "key_api: {url: 'http://a', token_file: key-api.token}\nshadow: true")
	path := filepath.Join(dir, "c.yaml")
	quoted := fmt.Sprintf("%q", path)
	cfg, file, err := LoadModule([]byte(`{"config_file":` + quoted + `}`))
	if err != nil || file != path || !cfg.Shadow || string(cfg.KeyAPI.TokenFile) != filepath.Join(dir, "key-api.token") {
		t.Errorf("%+v, %q, %v", cfg, file, err)
	}
	for text, want := range map[string]string{
		`{"config_file":` + quoted + `,"shadow":true}`: "filter_config: config_file is invalid: must be the only field",
		`{"config_file":""}`:                           "filter_config:1:2: config_file is invalid: must be the name of a file",
		`{"config_file":3}`:                            "config_file is invalid",
		`{"config_file":null}`:                         "config_file",
		`{"config_file":"/no/file"}`:                   "/no/file: open: no such file or directory",
		`{"config_file":"/"}`:                          "/: read: is a directory",
		`{"config_file":"a","config_file":"b"}`:        "config_file",
		`{"Config_file":"a"}`:                          "Config_file",
	} {
		cfg, file, err := LoadModule([]byte(text))
		if err == nil || cfg != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %q, %v, want %s", text, cfg, file, err, want)
		}
	}
	// A file that names a file is not followed.
	loop := filepath.Join(t.TempDir(), "loop.yaml")
	if err := os.WriteFile(loop, fmt.Appendf(nil, "config_file: %q", loop), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := LoadModule(fmt.Appendf(nil, "config_file: %q", loop)); err == nil || !strings.Contains(err.Error(), "config_file") {
		t.Errorf("a file that names itself: %v", err)
	}
}

func TestRouteOfModule(t *testing.T) {
	for text, want := range map[string]Route{
		`{"scope":"a"}`:                        {Scope: "a"},
		`{"scope":" a  b:c "}`:                 {Scope: " a  b:c "},
		`{"scope":""}`:                         {},
		`{"principal":"session"}`:              {Principal: "session"},
		`{"scope":"","principal":"any"}`:       {Principal: "any"},
		"scope: a\nprincipal: key":             {Scope: "a", Principal: "key"},
		`{"scope":"\u0061","principal":"key"}`: {Scope: "a", Principal: "key"},
	} {
		if got, err := LoadRoute([]byte(text)); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for text, want := range map[string][]string{
		"":                                  {"missing field scope or principal"},
		"{}":                                {"missing field scope or principal"},
		"null":                              {"missing field scope or principal"},
		`{"principal":""}`:                  {"principal is invalid"},
		`{"principal":"Key"}`:               {"principal is invalid"},
		`{"principal":null}`:                {"principal"},
		`{"scope":null}`:                    {"scope"},
		`{"scope":3}`:                       {"scope is invalid"},
		`{"scope":["a"]}`:                   {"scope is invalid"},
		`{"scope":"a\"b","principal":"x"}`:  {"scope is invalid: must be scopes separated by spaces", "principal is invalid"},
		`{"scope":"a","extra":1,"more":2}`:  {"extra", "more"},
		`{"scope":"a","scope":"b"}`:         {"scope"},
		`[]`:                                {"filter_config of the route"},
		`{`:                                 {"filter_config of the route"},
		"\n\x0b\n\x05scope\x12\x02\x1a\x00": {"filter_config of the route"},
	} {
		got, err := LoadRoute([]byte(text))
		if err == nil {
			t.Errorf("%q: %+v without an error", text, got)
			continue
		}
		for _, part := range want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q: %v, want %s", text, err, part)
			}
		}
	}
}

// FuzzLoadModule tests of any filter_config that each mistake is a line with its label, and that a
// configuration without mistakes is one of authzd.
func FuzzLoadModule(f *testing.F) {
	for _, text := range []string{"", "{}", `{"key_api":{"url":"http://a"}}`, `{"config_file":"/no"}`, "listen: {check: []}", "config_file: {}", "a: &a [*a]"} {
		f.Add([]byte(text))
	}
	f.Add([]byte(strings.Replace(fullAuthzd, "check:", "xheck:", 1)))
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg, file, err := LoadModule(text)
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !strings.HasPrefix(line, "filter_config") && (file == "" || !strings.HasPrefix(line, file)) {
					t.Fatalf("%q: message without its label: %q", text, line)
				}
			}
			return
		}
		if file != "" {
			return
		}
		if len(cfg.KeyAPI.URL) == 0 {
			t.Fatalf("%q is loaded without a key API", text)
		}
		printed, err := Print(cfg)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "authzd.yaml")
		if err := os.WriteFile(path, printed, 0o600); err != nil {
			t.Fatal(err)
		}
		if again, err := LoadAuthzd(path); err != nil || !cmp.Equal(cfg, again, cmp.AllowUnexported(Address{}), cmpopts.EquateEmpty()) {
			t.Fatalf("%q: %v\n%s", text, err, cmp.Diff(cfg, again, cmp.AllowUnexported(Address{}), cmpopts.EquateEmpty()))
		}
	})
}

// FuzzLoadRoute tests of any bytes that a route without a mistake has a requirement, and that each
// mistake is a line with its label.
func FuzzLoadRoute(f *testing.F) {
	for _, text := range []string{"", "{}", `{"scope":"a b"}`, `{"principal":"key"}`, "scope: 3", "scope: \"\"", "\n\x00", "a: *a", "? {}", "<<: {scope: a}"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		route, err := LoadRoute(text)
		if err == nil {
			if route.Principal == "" && !strings.Contains(string(text), "s") {
				t.Fatalf("%q: %+v without a requirement", text, route)
			}
			return
		}
		for line := range strings.SplitSeq(err.Error(), "\n") {
			if !strings.HasPrefix(line, "filter_config of the route") {
				t.Fatalf("%q: message without its label: %q", text, line)
			}
		}
	})
}
