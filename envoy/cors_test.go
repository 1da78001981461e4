package envoy_test

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// corsHeaders are those of an answer to the web app.
var corsHeaders = []string{
	"Access-Control-Allow-Origin: https://app.phantomrouter.ai",
	"Access-Control-Allow-Credentials: true",
}

func preflight(path string, headers ...string) request {
	return request{method: "OPTIONS", path: path}.with(append(headers, "Access-Control-Request-Method: PUT")...)
}

func TestPreflightOfTheWebApp(t *testing.T) {
	want := http.Header{
		"Access-Control-Allow-Origin": {"https://app.phantomrouter.ai"}, "Access-Control-Allow-Credentials": {"true"},
		"Access-Control-Allow-Methods": {"GET, HEAD, POST, PUT, PATCH, DELETE"},
		"Access-Control-Allow-Headers": {"Content-Type, Authorization"},
		"Access-Control-Max-Age":       {"600"}, "Server": {"envoy"}, "Content-Length": {"0"}, "Vary": {"Origin"},
	}
	onEachVersion(t, func(t *testing.T, f *front) {
		for _, path := range []string{companion, "/api/v1/me/keys", "/", "/anything"} {
			got := f.ask(t, preflight(path, webApp))
			got.header.Del("Date")
			if diff := cmp.Diff(want, got.header); got.status != 200 || got.body != "" || diff != "" {
				t.Errorf("%s: %d %q (-want +got):\n%s", path, got.status, got.body, diff)
			}
		}
	})
}

// TestPreflightFromElsewhere: without Access-Control-Allow-Origin a browser sends
// nothing more; and neither the sidecar nor the upstream was asked.
func TestPreflightFromElsewhere(t *testing.T) {
	onEachVersion(t, func(t *testing.T, f *front) {
		for _, origin := range []string{
			foreignPage, "Origin: null", "Origin: http://app.phantomrouter.ai", "Origin: https://app.phantomrouter.ai.evil.example",
			"Origin: https://app.phantomrouter.ai:8443", "Origin: https://APP.phantomrouter.ai", "Origin: https://x.app.phantomrouter.ai",
			"Origin: https://app.phantomrouter.ai,https://evil.example", "Origin: https://appXphantomrouter.ai",
		} {
			for _, key := range []string{f.w.held.chat, f.w.held.unknown} {
				got := f.ask(t, preflight(companion, origin, bearer(key)))
				if _, ok := got.header["Access-Control-Allow-Origin"]; ok || got.status != 200 || got.body != "" {
					t.Errorf("%s: %d %q %v", origin, got.status, got.body, got.header)
				}
			}
		}
	})
}

// TestOptionsThatIsNoPreflight is checked like every other request.
func TestOptionsThatIsNoPreflight(t *testing.T) {
	onEachVersion(t, func(t *testing.T, f *front) {
		noCredential.check(t, f.ask(t, request{method: "OPTIONS", path: companion}))
		noCredential.check(t, f.ask(t, preflight(companion))) // without an origin
		noCredential.check(t, f.ask(t, request{method: "OPTIONS", path: companion}.with(webApp)), corsHeaders...)
	})
}

func TestCORSHeadersOfAnswers(t *testing.T) {
	onEachVersion(t, func(t *testing.T, f *front) {
		chat := request{path: companion}.with(bearer(f.w.held.chat))
		noCredential.check(t, f.ask(t, request{path: companion}.with(webApp)), corsHeaders...)
		scopeMissing.check(t, f.ask(t, request{path: companion}.with(webApp, bearer(f.w.held.plain))), corsHeaders...)
		noCredential.check(t, f.ask(t, request{path: companion}.with(foreignPage)))

		got := f.ask(t, chat.with(webApp))
		if got.status != 200 || got.header.Get("Access-Control-Allow-Origin") != "https://app.phantomrouter.ai" ||
			got.header.Get("Access-Control-Allow-Credentials") != "true" {
			t.Errorf("allowed, web app: %d %v", got.status, got.header)
		}
		got = f.ask(t, chat.with(foreignPage))
		if got.status != 200 || got.header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("allowed, foreign page: %d %v", got.status, got.header)
		}
	})
}
