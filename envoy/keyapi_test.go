package envoy_test

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/envoy"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// keyAPI passes requests on to keyd. It can hold look-ups, and it counts.
type keyAPI struct {
	url         string
	lookUps     atomic.Int64 // that have arrived
	deregisters atomic.Int64

	mu   sync.Mutex
	held chan struct{} // closed when look-ups may pass; nil if they may
}

func (env *environment) slowKeyAPI(t *testing.T) *keyAPI {
	t.Helper()
	k := &keyAPI{}
	keyd := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "keyd"})
	keyd.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", env.Socket("sidecars"))
	}}
	keyd.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if bytes.Contains(body, []byte(`"leave":true`)) {
			k.deregisters.Add(1)
		}
		if r.URL.Path == "/v1/resolve" {
			k.lookUps.Add(1)
			select {
			case <-k.passable():
			case <-r.Context().Done():
				return
			}
		}
		keyd.ServeHTTP(w, r)
	}))
	k.url = server.URL
	t.Cleanup(func() { k.release(); server.Close() })
	return k
}

func (k *keyAPI) passable() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held != nil {
		return k.held
	}
	passable := make(chan struct{})
	close(passable)
	return passable
}

// hold keeps look-ups from keyd until release.
func (k *keyAPI) hold() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.held = make(chan struct{})
}

func (k *keyAPI) release() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.held != nil {
		close(k.held)
		k.held = nil
	}
}

// patience is the time limit of a look-up in tests that hold it. Smaller fails on a busy machine.
const patience = 20 * time.Second

// withKeyAPI runs an Envoy whose checks use that key API and wait for it for a long time.
func (env *environment) withKeyAPI(t *testing.T, s setup, k *keyAPI, a envoy.Addresses, edits ...edit) *proxy {
	t.Helper()
	changes := testbed.Config{"key_api": testbed.Config{
		"url": k.url, "token_file": env.File("key-api.token"), "timeout": patience.String(),
	}}
	var checks *testbed.Process
	if s.front == authzd {
		name := unique("authzd")
		checks = env.ownAuthzd(t, name, changes)
		a.Authz = env.socket(name)
		edits = append(edits, func(config map[string]any) {
			service := httpFilter(config, "envoy.filters.http.ext_authz")["grpc_service"].(map[string]any)
			service["timeout"] = "30s"
			backOff := service["retry_policy"].(map[string]any)["retry_back_off"].(map[string]any)
			backOff["max_interval"] = "30s" // also the timeout of each attempt
		})
	}
	p := env.ownModule(t, s, a, changes, edits...)
	p.checks = cmp.Or(checks, p.Process)
	// Facts from before are looked up again.
	err := p.checks.AwaitLine(t.Context(), func(line string) bool { return strings.Contains(line, "following the change log") })
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// httpFilter returns the configuration of an HTTP filter.
func httpFilter(config map[string]any, name string) map[string]any {
	for _, filter := range manager(config)["http_filters"].([]any) {
		if filter := filter.(map[string]any); filter["name"] == name {
			return filter["typed_config"].(map[string]any)
		}
	}
	panic("no filter " + name)
}
