package envoy_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// spoofs are identity headers of a client.
var spoofs = []string{
	"x-phantom-account-id: acc_evil",
	"X-Phantom-Account-Id: acc_evil",
	"X-PHANTOM-SCOPES: chat:companion admin",
	"x-Phantom-pRINCIPAL: session",
	"X-Phantom-Credential-Id: key_evil",
	"X-Phantom-Something-New: 1",
	"x-phantom-: 1",
	"Connection: x-phantom-account-id, x-phantom-scopes",
	"Connection: X-Phantom-Principal",
}

func TestIdentityHeadersOfClientAreRemoved(t *testing.T) { onEach(t, checkSpoofs) }

func checkSpoofs(t *testing.T, p *proxy) {
	c := p.env.creds
	want := map[string][]string{
		"x-phantom-account-id": {c.Account}, "x-phantom-principal": {"key"},
		"x-phantom-credential-id": {c.PlainID}, "x-phantom-scopes": {""},
	}
	tries := [][]string{{}, spoofs[:7]}
	for _, spoof := range spoofs {
		tries = append(tries, []string{spoof}, []string{spoof, spoof})
	}
	for _, headers := range tries {
		for _, http2 := range []bool{false, true} {
			if http2 && strings.Contains(strings.Join(headers, "\n"), "Connection") {
				continue // malformed there
			}
			r := request{path: "/api/v1/me", http2: http2}.with(append([]string{bearer(c.Plain)}, headers...)...)
			got := p.do(t, r)
			echo, ok := got.upstream()
			if diff := cmp.Diff(want, secretsAndIdentity(echo)); !ok || diff != "" {
				t.Errorf("%q, HTTP/2 %v: %d, at the upstream (-want +got):\n%s", headers, http2, got.status, diff)
			}
			// They do not grant a scope.
			scopeMissing.check(t, p.do(t, request{path: companion, http2: http2}.with(r.headers...)))
		}
	}
	// Many upstreams treat an underscore as a dash.
	for _, name := range []string{"x_phantom_account_id", "X_Phantom-Scopes", "x-phantom_principal"} {
		r := request{path: "/api/v1/me"}.with(bearer(c.Plain), name+": evil")
		if got := p.do(t, r); got.status != 400 || got.reached() {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
		r.http2 = true
		if got, err := p.send(t.Context(), r); err == nil {
			t.Errorf("%s over HTTP/2: %d %s, want a reset stream", name, got.status, got.body)
		}
	}
}

func TestIdentityTrailersOfClientAreRemoved(t *testing.T) {
	onEach(t, func(t *testing.T, p *proxy) {
		upstream := p.env.recordTrailers(t, p.setup)
		for _, http2 := range []bool{false, true} {
			trailers := upstream(http2)
			// Envoy drops all trailers of HTTP/1.1 and passes those of HTTP/2 on.
			if http2 && trailers.Get("X-Other") == "" {
				t.Errorf("no trailers arrived: %v", trailers)
			}
			for name, values := range trailers {
				if strings.Contains(strings.ToLower(name), "phantom") && len(values) > 0 { // a trailer without values was only announced
					t.Errorf("HTTP/2 %v: trailer %s arrived: %q", http2, name, values)
				}
			}
		}
	})
}

// TestEnvoyHeadersOfClientAreIgnored: no client is "internal" to Envoy.
func TestEnvoyHeadersOfClientAreIgnored(t *testing.T) {
	onEach(t, func(t *testing.T, p *proxy) {
		got := p.do(t, request{path: "/api/v1/me"}.with(
			bearer(p.env.creds.Plain), "X-Envoy-Original-Path: /api/v1/chat", "X-Envoy-External-Address: 203.0.113.9",
			"X-Envoy-Upstream-Alt-Stat-Name: x", "X-Envoy-Force-Trace: 1", "X-Envoy-Upstream-Rq-Timeout-Ms: 1", "X-Request-Id: mine",
		))
		echo, ok := got.upstream()
		if !ok {
			t.Fatalf("%d %s", got.status, got.body)
		}
		for _, name := range []string{"x-envoy-original-path", "x-envoy-force-trace", "x-envoy-upstream-alt-stat-name", "x-envoy-upstream-rq-timeout-ms"} {
			if values, ok := echo.Headers[name]; ok {
				t.Errorf("%s: %q arrived", name, values)
			}
		}
		if diff := cmp.Diff([]string{"127.0.0.1"}, echo.Headers["x-envoy-external-address"]); diff != "" {
			t.Errorf("x-envoy-external-address (-want +got):\n%s", diff)
		}
		if cmp.Equal(echo.Headers["x-request-id"], []string{"mine"}) {
			t.Error("the client's x-request-id arrived")
		}
	})
}
