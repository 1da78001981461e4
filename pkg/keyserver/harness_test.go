package keyserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Canary tokens. None may be in a log.
const (
	sidecarToken = "canary-sidecar-token"
	aliceToken   = "canary-alice-token"
	bobToken     = "canary-bob-token"
)

// The headers with which Envoy identifies an owner, as http.Header spells them.
var (
	accountHeader   = http.CanonicalHeaderKey(credential.AccountHeader)
	principalHeader = http.CanonicalHeaderKey(credential.PrincipalHeader)
)

func token(text string) Token {
	return func() credential.Secret { return credential.NewSecret(text) }
}

func testSettings() Settings {
	return Settings{
		SidecarTokens:   []Token{token("an-older-sidecar-token"), token(sidecarToken)},
		Operators:       []Operator{{"alice", token(aliceToken)}, {"bob", token(bobToken)}},
		Lease:           15 * time.Second,
		LongestMaxStale: time.Hour,
		LogRetention:    time.Hour,
		Catalogue:       Catalogue{"chat:companion": ByOperator, "read": ByOwner, "write": ByOwner},
		KeysPerAccount:  3,
		OwnerLimits:     OwnerLimits{ChangesPerMinute: 1_000_000, Burst: 1_000_000, Concurrent: 1000},
	}
}

// fixture is a server with a real store.
type fixture struct {
	*Server
	t       testing.TB
	path    string
	reg     *prometheus.Registry
	logs    *observer.ObservedLogs
	drain   chan struct{}
	polls   atomic.Int64 // the number of the last poll
	handler map[string]http.Handler
}

func setUp(t testing.TB) *fixture { return setUpOn(t, nil) }

// setUpOn wraps the store.
func setUpOn(t testing.TB, wrap func(keystore.Store) keystore.Store) *fixture {
	t.Helper()
	return setUpAt(t, filepath.Join(t.TempDir(), "keys.db"), wrap)
}

func setUpAt(t testing.TB, path string, wrap func(keystore.Store) keystore.Store) *fixture {
	t.Helper()
	f := setUpIdle(t, path, wrap)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = f.Run(ctx) }()
	t.Cleanup(func() { stop(); <-done })
	return f
}

// setUpIdle does not start Run.
func setUpIdle(t testing.TB, path string, wrap func(keystore.Store) keystore.Store) *fixture {
	t.Helper()
	opened, err := sqlite.Open(context.Background(), path, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var store keystore.Store = opened
	if wrap != nil {
		store = wrap(store)
	}
	core, logs := observer.New(zapcore.DebugLevel)
	f := &fixture{t: t, path: path, reg: prometheus.NewRegistry(), logs: logs, drain: make(chan struct{})}
	f.Server = New(Options{Store: store, Log: zap.New(core), Metrics: f.reg, Draining: f.drain}, testSettings())
	f.handler = map[string]http.Handler{
		"sidecars":  f.checked(f.Sidecars()),
		"operators": f.checked(f.Operators()),
		"owners":    f.checked(f.Owners()),
	}
	t.Cleanup(func() {
		if err := opened.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// reply is a response that was read.
type reply struct {
	t      testing.TB
	status int
	header http.Header
	raw    string
}

func (f *fixture) do(side string, r *http.Request) reply {
	f.t.Helper()
	w := httptest.NewRecorder()
	f.handler[side].ServeHTTP(w, r)
	if got := w.Header().Get("Cache-Control"); got != "no-store" {
		f.t.Errorf("%s %s: cache-control %q", r.Method, r.URL, got)
	}
	return reply{f.t, w.Code, w.Header(), w.Body.String()}
}

func request(method, target, body string) *http.Request {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	switch {
	case strings.HasPrefix(target, importPath):
		r.Header.Set("Content-Type", httpapi.LinesMedia)
	case body != "":
		r.Header.Set("Content-Type", "application/json")
	}
	return r
}

// operator sends a request as alice.
func (f *fixture) operator(method, target, body string) reply {
	f.t.Helper()
	r := request(method, target, body)
	r.Header.Set("Authorization", "Bearer "+aliceToken)
	return f.do("operators", r)
}

// sidecar sends a request as a sidecar.
func (f *fixture) sidecar(path, body string) reply {
	f.t.Helper()
	r := request(http.MethodPost, path, body)
	r.Header.Set("Authorization", "Bearer "+sidecarToken)
	return f.do("sidecars", r)
}

// owner sends a request as Envoy does for a session of the account.
func (f *fixture) owner(account, method, target, body string) reply {
	f.t.Helper()
	r := request(method, target, body)
	r.Header.Set(accountHeader, account)
	r.Header.Set(principalHeader, "session")
	return f.do("owners", r)
}

// want checks the status.
func (r reply) want(status int) reply {
	r.t.Helper()
	if r.status != status {
		r.t.Fatalf("status %d, want %d: %s", r.status, status, r.raw)
	}
	return r
}

// errorNames are the names of the contract.
var errorNames = map[int]string{
	400: "BAD_REQUEST", 401: "UNAUTHORIZED", 403: "FORBIDDEN", 404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 409: "CONFLICT",
	413: "PAYLOAD_TOO_LARGE", 415: "UNSUPPORTED_MEDIA_TYPE", 429: "TOO_MANY_REQUESTS", 503: "SERVICE_UNAVAILABLE",
}

// rejected checks that the reply is an envelope, byte by byte, whose message contains the parts.
func (r reply) rejected(status int, parts ...string) {
	r.t.Helper()
	var e struct {
		Error      string
		Message    string
		StatusCode int
	}
	if err := json.Unmarshal([]byte(r.raw), &e); err != nil {
		r.t.Fatalf("%d %q: %v", r.status, r.raw, err)
	}
	message, _ := json.Marshal(e.Message)
	exact := fmt.Sprintf(`{"error":%q,"message":%s,"statusCode":%d}`, errorNames[status], message, status)
	if r.status != status || strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(exact) != r.raw {
		r.t.Fatalf("got %d %s\nwant %d %s", r.status, r.raw, status, exact)
	}
	if got := r.header.Get("Content-Type"); got != "application/json" {
		r.t.Errorf("content-type %q", got)
	}
	for _, part := range parts {
		if !strings.Contains(e.Message, part) {
			r.t.Errorf("message %q does not name %q", e.Message, part)
		}
	}
}

// at returns a value of the body: at("key", "id").
func (r reply) at(path ...string) any {
	r.t.Helper()
	var v any
	if err := json.Unmarshal([]byte(r.raw), &v); err != nil {
		r.t.Fatalf("%q: %v", r.raw, err)
	}
	for _, name := range path {
		object, ok := v.(map[string]any)
		if !ok {
			r.t.Fatalf("no %v in %s", path, r.raw)
		}
		if v, ok = object[name]; !ok {
			r.t.Fatalf("no %v in %s", path, r.raw)
		}
	}
	return v
}

func (r reply) text(path ...string) string {
	r.t.Helper()
	s, ok := r.at(path...).(string)
	if !ok {
		r.t.Fatalf("%v is not a string in %s", path, r.raw)
	}
	return s
}

func (r reply) number(path ...string) int64 {
	r.t.Helper()
	n, ok := r.at(path...).(float64)
	if !ok {
		r.t.Fatalf("%v is not a number in %s", path, r.raw)
	}
	return int64(n)
}

// account creates an account.
func (f *fixture) account(id string) {
	f.t.Helper()
	f.operator("POST", "/v1/accounts", fmt.Sprintf(`{"id":%q,"name":"test"}`, id)).want(201)
}

// key mints a key and returns its id and plaintext.
func (f *fixture) key(account, fields string) (id, plaintext string) {
	f.t.Helper()
	r := f.operator("POST", "/v1/accounts/"+account+"/keys", `{"label":"test"`+fields+`}`).want(201)
	return r.text("key", "id"), r.text("plaintext")
}

func digestOf(plaintext string) string { return credential.NewSecret(plaintext).Digest().Hex() }
