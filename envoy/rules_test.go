package envoy_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
)

// TestSidecarMayRemoveIdentityHeaders: with dashes or underscores, and with any characters that a name may have.
func TestSidecarMayRemoveIdentityHeaders(t *testing.T) {
	forEachVersion(t, func(t *testing.T, env *environment, version string) {
		var name atomic.Value
		p := withSidecar(t, env, version, func(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error) {
			ok := &auth.OkHttpResponse{HeadersToRemove: []string{name.Load().(string)}}
			return &auth.CheckResponse{HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: ok}}, nil
		})
		for _, removed := range []string{
			"x-phantom-account-id", "x_phantom_account_id", "x-phantom_scopes", "x_phantom-other", "x-phantom-", "x-phantom-a.b!", "authorization", "cookie",
		} {
			name.Store(removed)
			if got := p.do(t, request{path: "/api/v1/chat"}); got.status != 200 || !got.reached() {
				t.Errorf("removing %s: %d %s", removed, got.status, got.body)
			}
		}
		for _, kept := range []string{"x-request-id", "xxphantom-scopes", "x-phantomx", "origin"} {
			name.Store(kept)
			unavailable.check(t, p.do(t, request{path: "/api/v1/chat"}))
		}
	})
}

// allowUnderscores is an edit that allows underscores in the names of headers and trailers.
func allowUnderscores(config map[string]any) {
	delete(manager(config)["common_http_protocol_options"].(map[string]any), "headers_with_underscores_action")
}

// TestSidecarReceivesIdentityHeaders: in an Envoy with the filter only, without early removal and refusal of underscores,
// the sidecar receives a client's identity headers, so that it can remove them.
func TestSidecarReceivesIdentityHeaders(t *testing.T) {
	filterOnly := func(config map[string]any) {
		delete(manager(config), "early_header_mutation_extensions")
		allowUnderscores(config)
	}
	forEachVersion(t, func(t *testing.T, env *environment, version string) {
		checks := make(chan *auth.CheckRequest, 1)
		p := withSidecar(t, env, version, func(_ context.Context, r *auth.CheckRequest) (*auth.CheckResponse, error) {
			checks <- r
			return &auth.CheckResponse{}, nil
		}, filterOnly)
		p.do(t, request{path: "/api/v1/chat"}.with("X-Phantom-Scopes: a", "x_phantom_scopes: b", "X_Phantom-New: c", "X-Phantomx: d", "X_Other: e"))
		var names []string
		for _, h := range (<-checks).GetAttributes().GetRequest().GetHttp().GetHeaderMap().GetHeaders() {
			if !strings.HasPrefix(h.Key, ":") {
				names = append(names, h.Key+"="+string(h.RawValue))
			}
		}
		if got, want := fmt.Sprint(names), "[x-phantom-scopes=a x_phantom_scopes=b x_phantom-new=c]"; got != want {
			t.Errorf("the sidecar receives %s, want %s", got, want)
		}
	})
}

// TestEnvoyRemovesIdentityHeadersWithUnderscores: also if it allows underscores.
func TestEnvoyRemovesIdentityHeadersWithUnderscores(t *testing.T) {
	forEachVersion(t, func(t *testing.T, env *environment, version string) {
		p := withSidecar(t, env, version, allowAll, allowUnderscores)
		got := p.do(t, request{path: "/api/v1/chat"}.with("x_phantom_scopes: a", "X_PHANTOM-account_id: b", "x-phantom_: c", "X_Other: d"))
		echo, ok := got.upstream()
		for name := range echo.Headers {
			if strings.Contains(name, "phantom") {
				t.Errorf("%s arrived", name)
			}
		}
		if !ok || echo.Headers["x_other"] == nil {
			t.Errorf("%d %s", got.status, got.body)
		}
	})
}
