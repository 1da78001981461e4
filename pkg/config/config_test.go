package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

// fullAuthzd sets every field that others do not exclude, each to another value than its default.
const fullAuthzd = `
listen:
  check: [unix:///run/phantom/authz.sock, "tcp://[::1]:9191", tcp://localhost:0]
  admin: tcp://0.0.0.0:9999
  tls: {cert_file: cert.pem, key_file: key.pem, client_ca_file: cert.pem}
key_api:
  url: https://keys.example:8443/base
  token_file: key-api.token
  timeout: 300ms
  changes: optional
  tls: {ca_file: cert.pem, cert_file: cert.pem, key_file: key.pem}
cache: {credentials: 1, unknown: 2, max_age: 2h, confirm_after: 0, max_stale: 0}
admission: {unknown_per_second: 3, burst: 4}
web_app: {origin: "http://localhost:3000", cookie: __Host-s, scopes: []}
keys: {foreign_format: refuse}
endpoints:
  - {methods: [GET, PUT], path: /api/v1/me/vector-store, host: A.example, scope: "chat:companion more", principal: any}
  - {prefix: /api/v1/me/billing, principal: session}
  - {path: /api/v1/me/billing, host: "[::1]", principal: key}
  - {prefix: /, scope: ""}
shadow: true
start_wait: 0
drain_delay: 3s
drain: 1m
log: {level: debug}
tracing: {otlp: "http://collector:4318/otlp"}
`

const fullKeyd = `
listen:
  sidecars: tcp://127.0.0.1:1
  operators: tcp://127.0.0.1:2
  owners: unix:///run/o.sock
  admin: tcp://127.0.0.1:3
  tls: {cert_file: cert.pem, key_file: key.pem, client_ca_file: cert.pem}
  client_names: {sidecars: [authzd.phantom], operators: ["spiffe://phantom/ops"], owners: [envoy.phantom]}
store: sqlite:///data/keys.db
sidecar_token_files: [key-api.token, old.token]
operators: [{name: alice, token_file: alice.token}, {name: bob@ops, token_file: sub/../bob.token}]
lease: 1s
scopes:
  "chat:companion": {granted_by: owner}
  more: {granted_by: operator}
log_retention: 1s
longest_max_stale: 0
keys_per_account: 7
owner_limits: {changes_per_minute: 1, burst: 2, concurrent: 3}
drain: 100ms
log: {level: error}
tracing: {otlp: "https://collector.example"}
`

// folder returns a folder with the configuration c.yaml and all files that it names.
func folder(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	certPEM, keyPEM := certificate(t)
	for name, content := range map[string]string{
		"c.yaml": text, "key-api.token": "canary-one\n", "old.token": "canary-2", "alice.token": "canary-three\r\n", "bob.token": "canary-four\n",
		"cert.pem": certPEM, "key.pem": keyPEM,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestEveryFieldOfAuthzd(t *testing.T) {
	dir := folder(t, fullAuthzd)
	at := func(name string) File { return File(filepath.Join(dir, name)) }
	got, err := LoadAuthzd(filepath.Join(dir, "c.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	want := &Authzd{
		Listen: AuthzdListen{
			Check: []Address{Unix("/run/phantom/authz.sock"), TCP("[::1]:9191"), TCP("localhost:0")},
			Admin: TCP("0.0.0.0:9999"),
			TLS:   &ServerTLS{CertFile: at("cert.pem"), KeyFile: at("key.pem"), ClientCAFile: at("cert.pem")},
		},
		KeyAPI: KeyAPI{
			URL: "https://keys.example:8443/base", TokenFile: at("key-api.token"), Timeout: Duration{300 * time.Millisecond}, Changes: ChangesOptional,
			TLS: &ClientTLS{CAFile: at("cert.pem"), CertFile: at("cert.pem"), KeyFile: at("key.pem")},
		},
		Cache:     Cache{Credentials: 1, Unknown: 2, MaxAge: Duration{2 * time.Hour}},
		Admission: Admission{UnknownPerSecond: 3, Burst: 4},
		WebApp:    WebApp{Origin: "http://localhost:3000", Cookie: "__Host-s"},
		Keys:      Keys{ForeignFormat: RefuseForeign},
		Endpoints: []Endpoint{
			{Methods: []string{"GET", "PUT"}, Path: "/api/v1/me/vector-store", Host: "A.example", Scope: "chat:companion more", Principal: "any"},
			{Prefix: "/api/v1/me/billing", Principal: "session"},
			{Path: "/api/v1/me/billing", Host: "[::1]", Principal: "key"},
			{Prefix: "/", Principal: "any"},
		},
		Shadow:     true,
		DrainDelay: Duration{3 * time.Second},
		Drain:      Duration{time.Minute},
		Log:        Log{Level: "debug"},
		Tracing:    &Tracing{OTLP: "http://collector:4318/otlp"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Address{})); diff != "" {
		t.Error(diff)
	}
	if got.Tracing.URL().Path != "/otlp" {
		t.Errorf("got the collector %v", got.Tracing.URL())
	}
	if got.KeyAPI.Base().Path != "/base" {
		t.Errorf("got the base URL %v", got.KeyAPI.Base())
	}
	want1 := policy.Endpoint{Path: "/api/v1/me/billing", Prefix: true, Requirement: policy.NewRequirement(policy.SessionOnly, "")}
	if entry := got.Endpoints[1].Entry(); !reflect.DeepEqual(entry, want1) {
		t.Errorf("got the entry %v, want %v", entry, want1)
	}
}

func TestEveryFieldOfKeyd(t *testing.T) {
	dir := folder(t, fullKeyd)
	at := func(name string) File { return File(filepath.Join(dir, name)) }
	got, err := LoadKeyd(filepath.Join(dir, "c.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	want := &Keyd{
		Listen: KeydListen{
			Sidecars: TCP("127.0.0.1:1"), Operators: TCP("127.0.0.1:2"), Owners: Unix("/run/o.sock"), Admin: TCP("127.0.0.1:3"),
			TLS:         &ServerTLS{CertFile: at("cert.pem"), KeyFile: at("key.pem"), ClientCAFile: at("cert.pem")},
			ClientNames: &ClientNames{Sidecars: []string{"authzd.phantom"}, Operators: []string{"spiffe://phantom/ops"}, Owners: []string{"envoy.phantom"}},
		},
		Store:             "sqlite:///data/keys.db",
		SidecarTokenFiles: []File{at("key-api.token"), at("old.token")},
		Operators:         []Operator{{"alice", at("alice.token")}, {"bob@ops", at("bob.token")}},
		Lease:             Duration{time.Second},
		Scopes:            map[string]Scope{"chat:companion": {ByOwner}, "more": {ByOperator}},
		LogRetention:      Duration{time.Second},
		KeysPerAccount:    7,
		OwnerLimits:       OwnerLimits{1, 2, 3},
		Drain:             Duration{100 * time.Millisecond},
		Log:               Log{Level: "error"},
		Tracing:           &Tracing{OTLP: "https://collector.example"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Address{})); diff != "" {
		t.Error(diff)
	}
	if got.SQLitePath() != "/data/keys.db" {
		t.Errorf("got the path %q", got.SQLitePath())
	}
}

// TestDefaults holds the printed defaults, which are those of the contract.
func TestDefaults(t *testing.T) {
	dir := folder(t, "key_api: {url: unix:///run/keyd.sock}")
	a, err := LoadAuthzd(filepath.Join(dir, "c.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := LoadKeyd("")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]struct {
		got  func() ([]byte, error)
		want string
	}{
		"authzd": {func() ([]byte, error) { return Print(a) }, authzdDefaults},
		"keyd":   {func() ([]byte, error) { return Print(k) }, keydDefaults},
	} {
		got, err := text.got()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(text.want, "\n"+string(got)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

const authzdDefaults = `
listen:
  check: ['tcp://127.0.0.1:9191']
  admin: tcp://127.0.0.1:9192
key_api:
  url: unix:///run/keyd.sock
  timeout: 400ms
  changes: required
cache:
  credentials: 100000
  unknown: 50000
  max_age: 1h
  confirm_after: 10s
  max_stale: 15m
admission:
  unknown_per_second: 200
  burst: 400
web_app:
  origin: https://app.phantomrouter.ai
  cookie: phantom_session
  scopes: ['chat:companion']
keys:
  foreign_format: lookup
endpoints: []
shadow: false
start_wait: 10s
drain_delay: 0s
drain: 10s
log:
  level: info
`

const keydDefaults = `
listen:
  sidecars: tcp://127.0.0.1:8080
  operators: tcp://127.0.0.1:8081
  owners: unix:///run/phantom/owners.sock
  admin: tcp://127.0.0.1:8082
store: sqlite:///var/lib/phantom/keys.db
sidecar_token_files: []
operators: []
lease: 15s
scopes:
  chat:companion:
    granted_by: operator
log_retention: 1h
longest_max_stale: 1h
keys_per_account: 100
owner_limits:
  changes_per_minute: 60
  burst: 20
  concurrent: 4
drain: 10s
log:
  level: info
`

// TestPrintedLoadsAgain: a printed configuration loads to the same value and holds no secret.
func TestPrintedLoadsAgain(t *testing.T) {
	t.Run("authzd", func(t *testing.T) { printedLoadsAgain(t, fullAuthzd, LoadAuthzd) })
	t.Run("keyd", func(t *testing.T) { printedLoadsAgain(t, fullKeyd, LoadKeyd) })
	t.Run("empty", func(t *testing.T) { printedLoadsAgain(t, "scopes: {}", LoadKeyd) })
}

func printedLoadsAgain[C any](t *testing.T, text string, load func(string) (*C, error)) {
	t.Helper()
	path := filepath.Join(folder(t, text), "c.yaml")
	first, err := load(path)
	if err != nil {
		t.Fatal(err)
	}
	printed, err := Print(first)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(printed), "canary") {
		t.Errorf("printed a token:\n%s", printed)
	}
	again := filepath.Join(t.TempDir(), "again.yaml") // in another folder: file names are absolute
	if err := os.WriteFile(again, printed, 0o600); err != nil {
		t.Fatal(err)
	}
	second, err := load(again)
	if err != nil {
		t.Fatalf("%v in\n%s", err, printed)
	}
	if diff := cmp.Diff(first, second, cmp.AllowUnexported(Address{}), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s of\n%s", diff, printed)
	}
}

// TestAliasesAndMerges: an alias loads as the value that it refers to, and the keys of a mapping override
// merged ones.
func TestAliasesAndMerges(t *testing.T) {
	got, err := LoadAuthzd(filepath.Join(folder(t, `
key_api: {url: 'http://a', timeout: &time 2s}
drain: *time
cache: {<<: {max_age: 2h, max_stale: 3h}, max_stale: 4h}
endpoints:
  - &first {path: /a, scope: one}
  - {<<: [{scope: two, principal: key}, *first], path: /b}
`), "c.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if got.Drain.Duration != 2*time.Second || got.Cache.MaxAge.Duration != 2*time.Hour || got.Cache.MaxStale.Duration != 4*time.Hour {
		t.Errorf("got drain %v and cache %+v", got.Drain, got.Cache)
	}
	want := []Endpoint{{Path: "/a", Scope: "one", Principal: "any"}, {Path: "/b", Scope: "two", Principal: "key"}}
	if diff := cmp.Diff(want, got.Endpoints); diff != "" {
		t.Error(diff)
	}
}

// TestAliasBomb: small files are refused if their aliases refer to many values.
func TestAliasBomb(t *testing.T) {
	aliases := func(n int) string { return strings.TrimSuffix(strings.Repeat("*a, ", n), ", ") }
	for name, text := range map[string]string{
		"lists":  "endpoints: [{path: /, methods: &a [" + strings.Repeat("A, ", 1000) + "A]}" + strings.Repeat(", {path: /, methods: *a}", 1000) + "]",
		"merges": "endpoints: [&a {path: /" + strings.Repeat(", x: 1", 1000) + "}, {<<: [" + aliases(1000) + "]}]",
	} {
		_, err := LoadAuthzd(filepath.Join(folder(t, text), "c.yaml"))
		if err == nil || !strings.Contains(err.Error(), "must have at most 200000 values") {
			t.Errorf("%s: got %.200v", name, err)
		}
	}
}

func TestNeedsRestart(t *testing.T) {
	base, err := LoadAuthzd(filepath.Join(folder(t, fullAuthzd), "c.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	changed := *base
	changed.Listen.Admin = TCP("127.0.0.1:1")
	changed.Listen.TLS = nil
	changed.KeyAPI.URL = "http://other"
	changed.KeyAPI.Timeout.Duration = time.Second
	changed.Cache.Credentials++
	changed.Cache.MaxAge.Duration++
	changed.Endpoints = nil
	changed.Log.Level = "info"
	want := []string{"listen.admin", "listen.tls", "key_api.url", "cache.credentials"}
	if got := NeedsRestart(base, &changed); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := NeedsRestart(base, base); got != nil {
		t.Errorf("got %v for an unchanged configuration", got)
	}
}

// TestAdminAddressOfInvalidFile: the address is read whatever other mistakes the file has.
func TestAdminAddressOfInvalidFile(t *testing.T) {
	cases := map[string]struct {
		text, want string
		wantErr    bool
	}{
		"good":        {"listen: {admin: tcp://127.0.0.1:1}", "127.0.0.1:1", false},
		"other wrong": {"listen: {admin: tcp://127.0.0.1:1}\nshadw: 1\nkeys: 2", "127.0.0.1:1", false},
		"default":     {"shadow: true", "127.0.0.1:9192", false},
		"wrong":       {"listen: {admin: 5}", "127.0.0.1:9192", true},
		"not YAML":    {"listen: {admin", "127.0.0.1:9192", true},
	}
	for name, c := range cases {
		got, err := AuthzdAdmin(filepath.Join(folder(t, c.text), "c.yaml"))
		if got.String() != c.want || (err != nil) != c.wantErr {
			t.Errorf("%s: got %s and %v, want %s", name, got, err, c.want)
		}
	}
	if got, err := KeydAdmin("/nowhere/c.yaml"); got != TCP("127.0.0.1:8082") || err == nil {
		t.Errorf("without a file: got %s and %v", got, err)
	}
}

func TestUnreadableFile(t *testing.T) {
	dir := t.TempDir()
	huge := filepath.Join(dir, "huge.yaml")
	if err := os.WriteFile(huge, []byte(strings.Repeat("#\n", maxFile/2+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		huge:                          huge + " is invalid: must have at most 1048576 bytes",
		dir:                           dir + ": read: is a directory",
		filepath.Join(dir, "nowhere"): filepath.Join(dir, "nowhere") + ": open: no such file or directory",
	} {
		if _, err := LoadKeyd(path); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	const missing = "no -config: missing field key_api.url"
	if _, err := LoadAuthzd(""); err == nil || err.Error() != missing {
		t.Errorf("got %v, want %s", err, missing)
	}
}
