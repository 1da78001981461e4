package envoy_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/go-cmp/cmp"

	"github.com/phantomrouter/phantom-authz/envoy"
)

// TestSidecarMayRemoveIdentityHeaders: with dashes or underscores, and with any characters that a name may have.
func TestSidecarMayRemoveIdentityHeaders(t *testing.T) {
	forEach(t, func(t *testing.T, env *environment, s setup) {
		var name atomic.Value
		p := withSidecar(t, env, s, func(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error) {
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

// filterOnly is an edit that leaves identity headers to the front: without early removal and refusal of underscores.
func filterOnly(config map[string]any) {
	delete(manager(config), "early_header_mutation_extensions")
	allowUnderscores(config)
}

// TestSidecarReceivesIdentityHeaders: in an Envoy with the filter only, the sidecar receives a client's identity headers, so that it can remove them.
func TestSidecarReceivesIdentityHeaders(t *testing.T) {
	forEach(t, func(t *testing.T, env *environment, s setup) {
		checks := make(chan *auth.CheckRequest, 1)
		p := withSidecar(t, env, s, func(_ context.Context, r *auth.CheckRequest) (*auth.CheckResponse, error) {
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

// TestIdentityHeadersWithUnderscoresAreRemoved: by Envoy, if it allows underscores, and by the front, if Envoy does not
// remove them early.
func TestIdentityHeadersWithUnderscoresAreRemoved(t *testing.T) {
	forEach(t, func(t *testing.T, env *environment, s setup) {
		for name, edit := range map[string]edit{"Envoy": allowUnderscores, "front": filterOnly} {
			p := env.ownEnvoy(t, s, envoy.Addresses{}, edit)
			me := request{path: "/api/v1/me"}.with(bearer(env.creds.Plain))
			want := map[string][]string{
				"x-phantom-account-id": {env.creds.Account}, "x-phantom-principal": {"key"},
				"x-phantom-credential-id": {env.creds.PlainID}, "x-phantom-scopes": {""},
			}
			for _, me.http2 = range []bool{false, true} {
				got := p.do(t, me.with(
					"x_phantom_scopes: a", "x_phantom_scopes: a2", "X_PHANTOM-account_id: b", "x-phantom_: c", "x-phantom-new: d", "x-phantom-new: e",
					"X-Phantom-Scopes: f", "x-phantom-scopes: g", "x-phantom-account-id:", "x-phantom-empty:", "X_Other: h",
				))
				echo, ok := got.upstream()
				found := secretsAndIdentity(echo)
				for name, values := range echo.Headers {
					if strings.Contains(name, "phantom") {
						found[name] = values
					}
				}
				if diff := cmp.Diff(want, found); !ok || echo.Headers["x_other"] == nil || diff != "" {
					t.Errorf("by %s, HTTP/2 %v: %d %s (-want +got):\n%s", name, me.http2, got.status, got.body, diff)
				}
			}
		}
	})
}
