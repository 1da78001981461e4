package envoy_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/phantomrouter/phantom-authz/envoy"
)

// TestBothSpellingsOfIdentityCanBeRemoved: Envoy obeys a sidecar that removes a client's identity header in either
// spelling, and in any characters that a name may have.
func TestBothSpellingsOfIdentityCanBeRemoved(t *testing.T) {
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			var name atomic.Value
			f := behind(t, version, func(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error) {
				ok := &auth.OkHttpResponse{HeadersToRemove: []string{name.Load().(string)}}
				return &auth.CheckResponse{HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: ok}}, nil
			})
			for _, removed := range []string{
				"x-phantom-account-id", "x_phantom_account_id", "x-phantom_scopes", "x_phantom-other", "x-phantom-", "x-phantom-a.b!", "authorization", "cookie",
			} {
				name.Store(removed)
				if got := f.ask(t, request{path: "/api/v1/chat"}); got.status != 200 || !got.reached() {
					t.Errorf("removing %s: %d %s", removed, got.status, got.body)
				}
			}
			for _, kept := range []string{"x-request-id", "xxphantom-scopes", "x-phantomx", "origin"} {
				name.Store(kept)
				unavailable.check(t, f.ask(t, request{path: "/api/v1/chat"}))
			}
		})
	}
}

// allowUnderscores is an edit: names of headers and trailers may have underscores.
func allowUnderscores(config map[string]any) {
	delete(manager(config)["common_http_protocol_options"].(map[string]any), "headers_with_underscores_action")
}

// TestSidecarSeesIdentityHeaders: in an Envoy that has copied the filter alone, without the early removal and the
// refusal of underscores, the sidecar sees a client's identity headers and so can remove them.
func TestSidecarSeesIdentityHeaders(t *testing.T) {
	filterAlone := func(config map[string]any) {
		delete(manager(config), "early_header_mutation_extensions")
		allowUnderscores(config)
	}
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			w := shared(t)
			seen := make(chan *auth.CheckRequest, 1)
			socket := w.file("filter-alone-" + version + ".sock")
			serveChecks(t, socket, func(_ context.Context, r *auth.CheckRequest) (*auth.CheckResponse, error) {
				seen <- r
				return &auth.CheckResponse{}, nil
			})
			f := w.ownEnvoy(t, version, envoy.Addresses{Authz: "unix://" + socket}, filterAlone)
			f.ask(t, request{path: "/api/v1/chat"}.with("X-Phantom-Scopes: a", "x_phantom_scopes: b", "X_Phantom-New: c", "X-Phantomx: d", "X_Other: e"))
			var names []string
			for _, h := range (<-seen).GetAttributes().GetRequest().GetHttp().GetHeaderMap().GetHeaders() {
				if !strings.HasPrefix(h.Key, ":") {
					names = append(names, h.Key+"="+string(h.RawValue))
				}
			}
			if got, want := fmt.Sprint(names), "[x-phantom-scopes=a x_phantom_scopes=b x_phantom-new=c]"; got != want {
				t.Errorf("the sidecar sees %s, want %s", got, want)
			}
		})
	}
}

// TestIdentityIsRemovedEarlyInBothSpellings: an Envoy that lets underscores pass still removes the client's identity
// headers itself.
func TestIdentityIsRemovedEarlyInBothSpellings(t *testing.T) {
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			w := shared(t)
			socket := w.file("early-" + version + ".sock")
			serveChecks(t, socket, allowAll)
			f := w.ownEnvoy(t, version, envoy.Addresses{Authz: "unix://" + socket}, allowUnderscores)
			got := f.ask(t, request{path: "/api/v1/chat"}.with("x_phantom_scopes: a", "X_PHANTOM-account_id: b", "x-phantom_: c", "X_Other: d"))
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
}
