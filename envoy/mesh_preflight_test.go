package envoy_test

import (
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
)

// origins and methods are headers of an OPTIONS request. The first of each two are those of a preflight of the web app; an
// absent header has no line, an empty one has no value.
var (
	origins = map[string][]string{
		"web app": {webApp}, "absent": nil, "foreign": {otherOrigin}, "empty": {"Origin:"}, "null": {"Origin: null"},
		"other case": {"Origin: https://APP.phantomrouter.ai"}, "longer": {"Origin: https://app.phantomrouter.ai.evil.example"},
		"twice": {webApp, webApp}, "two": {webApp, otherOrigin}, "star": {"Origin: *"},
	}
	requestMethods = map[string][]string{
		"GET": {"Access-Control-Request-Method: GET"}, "DELETE": {"Access-Control-Request-Method: DELETE"},
		"absent": nil, "empty": {"Access-Control-Request-Method:"}, "lower case": {"Access-Control-Request-Method: get"},
		"unknown": {"Access-Control-Request-Method: PURGE"}, "star": {"Access-Control-Request-Method: *"},
		"twice": {"Access-Control-Request-Method: GET", "Access-Control-Request-Method: GET"},
	}
)

// options yields OPTIONS requests with all combinations of origins and methods, in both versions of HTTP.
func options(path string, yield func(name, origin, method string, r request)) {
	for origin, originLines := range origins {
		for method, methodLines := range requestMethods {
			for _, http2 := range []bool{false, true} {
				r := request{method: http.MethodOptions, path: path, http2: http2}.with(slices.Concat(originLines, methodLines)...)
				yield(fmt.Sprintf("origin %s, method %s, HTTP/2 %v", origin, method, http2), origin, method, r)
			}
		}
	}
}

// upstreamCounter is an upstream that counts requests.
func upstreamCounter(t *testing.T) (url string, requests *atomic.Int64) {
	t.Helper()
	requests = new(atomic.Int64)
	server := serve(t, "127.0.0.1:0", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) }))
	return "tcp://" + server.addr, requests
}

// TestMeshesCheckEveryOPTIONS: no OPTIONS request without a credential reaches the upstream. The web app's preflights are answered,
// by exact values of both headers.
func TestMeshesCheckEveryOPTIONS(t *testing.T) {
	env := shared(t)
	onMeshes(t, func(t *testing.T, m mesh, version string) {
		url, requests := upstreamCounter(t)
		p := env.meshProxy(t, m, version, m.authzd(t, env), url)
		for _, path := range []string{companion, "/api/v1/me", "/api/v1/me/keys", "/api/v1/me/keys?wait_ms=1", "/", "/anything"} {
			options(path, func(name, origin, method string, r request) {
				got := p.do(t, r)
				if n := requests.Swap(0); n != 0 || got.reached() || got.status == http.StatusNoContent {
					t.Errorf("%s, %s: reached the upstream: %d %s", path, name, got.status, got.body)
				}
				allowed := got.header.Get("Access-Control-Allow-Origin") == "https://app.phantomrouter.ai"
				if origin == "web app" && (method == "GET" || method == "DELETE") {
					if got.status != http.StatusOK || !allowed || got.header.Get("Access-Control-Allow-Credentials") != "true" {
						t.Errorf("%s, %s: %d %v, want a preflight's answer", path, name, got.status, got.header)
					}
					return
				}
				if got.status == http.StatusOK && allowed && (m.corsLast || origin != "web app") {
					t.Errorf("%s, %s: answered as a preflight of the web app", path, name)
				}
				if got.status != http.StatusOK && got.status != http.StatusUnauthorized {
					t.Errorf("%s, %s: %d %s", path, name, got.status, got.body)
				}
			})
		}
		// With a credential it is an ordinary request.
		if got := p.do(t, request{method: http.MethodOptions, path: companion}.with(bearer(env.creds.Chat))); requests.Swap(0) != 1 {
			t.Errorf("OPTIONS with a key: %d %s", got.status, got.body)
		}
	})
}

// TestUncheckedOPTIONSAreDetected: mistakes with preflights let OPTIONS requests pass to the upstream unchecked, or
// TestMeshesCheckEveryOPTIONS would prove nothing.
func TestUncheckedOPTIONSAreDetected(t *testing.T) {
	env := shared(t)
	unchecked := func(config map[string]any, policies map[string]any) {
		httpFilter(config, "envoy.filters.http.rbac")["shadow_rules"].(map[string]any)["policies"] = policies
	}
	method := func(not bool) []any {
		rule := map[string]any{"header": map[string]any{"name": ":method", "string_match": map[string]any{"exact": "OPTIONS"}}}
		if not {
			rule = map[string]any{"not_rule": rule}
		}
		return []any{rule}
	}
	everyone := []any{map[string]any{"any": true}}
	const rule = "istio-ext-authz-phantom-authz-rule"
	absent := func(name string) []any {
		return []any{map[string]any{"not_id": map[string]any{"header": map[string]any{"name": name, "present_match": true}}}}
	}
	for name, c := range map[string]struct {
		mesh mesh
		edit edit
	}{
		"OPTIONS excluded": {meshes[0], func(config map[string]any) {
			unchecked(config, map[string]any{rule: map[string]any{"permissions": method(true), "principals": everyone}})
		}},
		"preflights by presence": {meshes[0], func(config map[string]any) {
			unchecked(config, map[string]any{
				rule + "0": map[string]any{"permissions": method(true), "principals": everyone},
				rule + "1": map[string]any{"permissions": method(false), "principals": absent("origin")},
				rule + "2": map[string]any{"permissions": method(false), "principals": absent("access-control-request-method")},
			})
		}},
		"route without corsPolicy": {meshes[0], func(config map[string]any) {
			for _, r := range virtualHost(config)["routes"].([]any) {
				delete(r.(map[string]any), "typed_per_filter_config")
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			url, requests := upstreamCounter(t)
			p := env.meshProxy(t, c.mesh, versions()[0], c.mesh.authzd(t, env), url, c.edit)
			options(companion, func(_, _, _ string, r request) { p.do(t, r) })
			if requests.Load() == 0 {
				t.Error("no OPTIONS request reached the upstream")
			}
		})
	}
	t.Run("policy of another name", func(t *testing.T) { // checked and denied, because everything is checked
		m := meshes[1]
		url, requests := upstreamCounter(t)
		p := env.meshProxy(t, m, versions()[0], m.authzd(t, env), url, func(config map[string]any) {
			for _, f := range manager(config)["http_filters"].([]any) {
				if f := f.(map[string]any); f["name"] == "envoy.filters.http.cors" {
					f["name"] = "cors"
				}
			}
		})
		p.adapt = nil
		options(companion, func(_, _, _ string, r request) { p.do(t, r) })
		if requests.Load() != 0 {
			t.Errorf("%d OPTIONS requests reached the upstream", requests.Load())
		}
	})
}
