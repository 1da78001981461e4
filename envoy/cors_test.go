package envoy_test

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// corsHeaders are in each answer to the web app.
var corsHeaders = []string{
	"Access-Control-Allow-Origin: https://app.phantomrouter.ai",
	"Access-Control-Allow-Credentials: true",
}

func preflight(path string, headers ...string) request {
	return request{method: "OPTIONS", path: path}.with(append(headers, "Access-Control-Request-Method: PUT")...)
}

func TestPreflightOfWebApp(t *testing.T) {
	want := http.Header{
		"Access-Control-Allow-Origin": {"https://app.phantomrouter.ai"}, "Access-Control-Allow-Credentials": {"true"},
		"Access-Control-Allow-Methods": {"GET, HEAD, POST, PUT, PATCH, DELETE"},
		"Access-Control-Allow-Headers": {"Content-Type, Authorization"},
		"Access-Control-Max-Age":       {"600"}, "Server": {"envoy"}, "Content-Length": {"0"}, "Vary": {"Origin"},
	}
	onEach(t, func(t *testing.T, p *proxy) {
		for _, path := range []string{companion, "/api/v1/me/keys", "/", "/anything"} {
			got := p.do(t, preflight(path, webApp))
			got.header.Del("Date")
			if diff := cmp.Diff(want, got.header); got.status != 200 || got.body != "" || diff != "" {
				t.Errorf("%s: %d %q (-want +got):\n%s", path, got.status, got.body, diff)
			}
		}
	})
}

// TestPreflightOfOtherOrigin: the answer has no Access-Control-Allow-Origin, so a browser does not send the request. The
// preflight reaches neither the sidecar nor the upstream.
func TestPreflightOfOtherOrigin(t *testing.T) {
	onEach(t, func(t *testing.T, p *proxy) {
		for _, origin := range []string{
			otherOrigin, "Origin: null", "Origin: http://app.phantomrouter.ai", "Origin: https://app.phantomrouter.ai.evil.example",
			"Origin: https://app.phantomrouter.ai:8443", "Origin: https://APP.phantomrouter.ai", "Origin: https://x.app.phantomrouter.ai",
			"Origin: https://app.phantomrouter.ai,https://evil.example", "Origin: https://appXphantomrouter.ai",
		} {
			for _, key := range []string{p.env.creds.Chat, p.env.creds.Unknown} {
				got := p.do(t, preflight(companion, origin, bearer(key)))
				if _, ok := got.header["Access-Control-Allow-Origin"]; ok || got.status != 200 || got.body != "" {
					t.Errorf("%s: %d %q %v", origin, got.status, got.body, got.header)
				}
			}
		}
	})
}

func TestOptionsWithoutPreflightIsChecked(t *testing.T) {
	onEach(t, func(t *testing.T, p *proxy) {
		noCredential.check(t, p.do(t, request{method: "OPTIONS", path: companion}))
		noCredential.check(t, p.do(t, preflight(companion))) // without an origin
		noCredential.check(t, p.do(t, request{method: "OPTIONS", path: companion}.with(webApp)), corsHeaders...)
	})
}

func TestCORSHeadersOfAnswers(t *testing.T) {
	onEach(t, func(t *testing.T, p *proxy) {
		chat := request{path: companion}.with(bearer(p.env.creds.Chat))
		noCredential.check(t, p.do(t, request{path: companion}.with(webApp)), corsHeaders...)
		scopeMissing.check(t, p.do(t, request{path: companion}.with(webApp, bearer(p.env.creds.Plain))), corsHeaders...)
		noCredential.check(t, p.do(t, request{path: companion}.with(otherOrigin)))

		got := p.do(t, chat.with(webApp))
		if got.status != 200 || got.header.Get("Access-Control-Allow-Origin") != "https://app.phantomrouter.ai" ||
			got.header.Get("Access-Control-Allow-Credentials") != "true" {
			t.Errorf("allowed, web app: %d %v", got.status, got.header)
		}
		got = p.do(t, chat.with(otherOrigin))
		if got.status != 200 || got.header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("allowed, other origin: %d %v", got.status, got.header)
		}
	})
}
