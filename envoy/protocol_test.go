package envoy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/phantomrouter/phantom-authz/envoy"
)

// TestUpgradeToTLSIsIgnored: Apache HttpClient offers TLS over plain HTTP. Other unknown upgrades are refused.
func TestUpgradeToTLSIsIgnored(t *testing.T) {
	onEach(t, func(t *testing.T, p *proxy) {
		chat := request{path: companion}.with(bearer(p.env.creds.Chat))
		for _, upgrade := range []string{"TLS/1.2", "TLS/1.3", "tls/1.0", "TLS/1.2, TLS/1.3", "TLS/1.3,TLS/1.2,TLS/1.0"} {
			for _, connection := range []string{"Connection: Upgrade", "Connection: keep-alive, upgrade"} {
				got := p.do(t, chat.with("Upgrade: "+upgrade, connection))
				echo, ok := got.upstream()
				if !ok || len(echo.Headers["upgrade"]) > 0 || len(echo.Headers["connection"]) > 0 {
					t.Errorf("%s, %s: %d %s", upgrade, connection, got.status, got.body)
				}
				// The check is not skipped.
				noCredential.check(t, p.do(t, request{path: companion}.with("Upgrade: "+upgrade, connection)))
			}
		}
		for _, upgrade := range []string{"foo", "TLS", "IRC/6.9", "TLS/1.2, foo", "connect-udp"} {
			if got := p.do(t, chat.with("Upgrade: "+upgrade, "Connection: Upgrade")); got.status < 403 || got.status > 404 || got.reached() {
				t.Errorf("%s: %d %s", upgrade, got.status, got.body)
			}
		}
	})
}

// TestHTTP10: health checks of load balancers use it, often without a Host.
func TestHTTP10(t *testing.T) {
	onEach(t, func(t *testing.T, p *proxy) {
		for _, r := range []struct {
			target, headers string
			status          int
			body            string
		}{
			{"/", "", 401, noCredential.body()},
			{"/", "Host: api.example\r\n", 401, noCredential.body()},
			{"/", bearer(p.env.creds.Chat) + "\r\n", 403, noPolicy.body()},
			{"/api/v1/me", bearer(p.env.creds.Plain) + "\r\n", 200, `"path":"/api/v1/me"`},
			{"/api/v1/me", "Host: api.example\r\nConnection: keep-alive, x-phantom-scopes\r\n" + bearer(p.env.creds.Plain) + "\r\n", 200, `"x-phantom-scopes":[""]`},
			{"/api/v1/me/%2e%2e/chat", bearer(p.env.creds.Plain) + "\r\n", 403, scopeMissing.body()},
			{"/api/v1/me", "X-Phantom-Account-Id: acc_evil\r\n" + bearer(p.env.creds.Plain) + "\r\n", 200, p.env.creds.Account},
			{"/", "X_Phantom_Account_Id: acc_evil\r\n", 400, ""},
		} {
			conn, err := net.Dial("tcp", p.addr)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = fmt.Fprintf(conn, "GET %s HTTP/1.0\r\n%s\r\n", r.target, r.headers)
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(response.Body)
			_ = conn.Close()
			if err != nil || response.StatusCode != r.status || !strings.Contains(string(body), r.body) || strings.Contains(string(body), "acc_evil") {
				t.Errorf("%s %q: %d %q %v, want %d %s", r.target, r.headers, response.StatusCode, body, err, r.status, r.body)
			}
		}
	})
}

// TestManyHeadersAreAllowed: a request may have 200 fields; over HTTP/2 each cookie crumb is one.
func TestManyHeadersAreAllowed(t *testing.T) {
	const fields = 200
	onEach(t, func(t *testing.T, p *proxy) {
		me := request{path: "/api/v1/me"}.with(bearer(p.env.creds.Plain))
		many := me
		for i := range fields - 1 {
			many = many.with(fmt.Sprintf("X-Field-%d: some value of a header field %d", i, i))
		}
		for _, many.http2 = range []bool{false, true} {
			echo, ok := p.do(t, many).upstream()
			if !ok || len(echo.Headers[fmt.Sprintf("x-field-%d", fields-2)]) != 1 {
				t.Errorf("HTTP/2 %v: fields are missing: %v", many.http2, echo.Headers)
			}
		}
		var crumbs []string
		for i := range fields {
			crumbs = append(crumbs, fmt.Sprintf("crumb%d=%d", i, i))
		}
		// Go's client sends each cookie as a field, as browsers do.
		got := p.do(t, request{path: "/api/v1/me", http2: true}.with(bearer(p.env.creds.Plain), "Cookie: "+strings.Join(crumbs, "; ")))
		if echo, ok := got.upstream(); !ok || !slices.Equal(echo.Headers["cookie"], []string{strings.Join(crumbs, "; ")}) {
			t.Errorf("cookies: %d %v", got.status, echo.Headers["cookie"])
		}
		for _, headers := range [][]string{{"X-Large: " + strings.Repeat("x", 40_000)}, slices.Repeat([]string{"X: y"}, 300)} {
			if got := p.do(t, me.with(headers...)); got.status != 431 || got.reached() {
				t.Errorf("%d headers that are too large: %d", len(headers), got.status)
			}
		}
	})
}

// TestMaxStreamDurationEndsWebSocket sets the bound that envoy.yaml turns off.
func TestMaxStreamDurationEndsWebSocket(t *testing.T) {
	const bound = time.Second
	forEachInParallel(t, func(t *testing.T, env *environment, s setup) {
		p := env.ownEnvoy(t, s, envoy.Addresses{}, func(config map[string]any) {
			options := manager(config)["common_http_protocol_options"].(map[string]any)
			if options["max_stream_duration"] != "0s" {
				t.Errorf("max_stream_duration is %v in envoy.yaml, want 0s", options["max_stream_duration"])
			}
			options["max_stream_duration"] = bound.String()
		})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		use := func(p *proxy, until time.Duration) (used time.Duration, err error) {
			begin := time.Now()
			conn, _, err := websocket.Dial(ctx, "ws://"+p.addr+"/api/v1/chat/live", &websocket.DialOptions{
				HTTPHeader: http.Header{"Authorization": {"Bearer " + env.creds.Chat}},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.CloseNow() }()
			for tick := time.Tick(10 * time.Millisecond); time.Since(begin) < until && err == nil; <-tick {
				if err = conn.Write(ctx, websocket.MessageText, []byte("hello")); err == nil {
					_, _, err = conn.Read(ctx)
				}
			}
			return time.Since(begin), err
		}
		if used, err := use(p, 5*bound); err == nil || used < bound {
			t.Errorf("a WebSocket ended after %v: %v", used, err)
		}
		if used, err := use(env.proxy(s), 2*bound); err != nil {
			t.Errorf("with envoy.yaml unchanged, a WebSocket ended after %v: %v", used, err)
		}
	})
}
