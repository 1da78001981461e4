package envoy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/phantomrouter/phantom-authz/envoy"
)

// nominations are headers of a client that would make the next hop delete identity headers.
var nominations = map[string][]string{
	"with Upgrade":               {"Connection: Upgrade, x-phantom-account-id, X-Phantom-Scopes", "Upgrade: websocket"},
	"with Upgrade, two lines":    {"Connection: Upgrade", "Connection: x-phantom-account-id", "Upgrade: websocket"},
	"with Upgrade, other order":  {"Connection: x-phantom-principal,upgrade", "Upgrade: WebSocket"},
	"with an ignored Upgrade":    {"Connection: Upgrade, x-phantom-account-id", "Upgrade: TLS/1.2"},
	"with h2c":                   {"Connection: Upgrade, HTTP2-Settings, x-phantom-scopes", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"},
	"Upgrade without a protocol": {"Connection: Upgrade, x-phantom-account-id"},
	"without Upgrade":            {"Connection: x-phantom-account-id"},
	"close":                      {"Connection: close, x-phantom-scopes"},
	"keep-alive, two lines":      {"Connection: keep-alive", "Connection: x-phantom-account-id, x-phantom-credential-id"},
	"Proxy-Connection":           {"Proxy-Connection: x-phantom-account-id"},
	"Keep-Alive, nominated":      {"Connection: keep-alive, x-phantom-scopes", "Keep-Alive: timeout=5"},
	"TE, nominated":              {"Connection: TE, x-phantom-account-id", "TE: trailers"},
	"with Upgrade, every name":   {"Connection: Upgrade, x-phantom-account-id, x-phantom-principal, x-phantom-credential-id, x-phantom-scopes", "Upgrade: websocket"},
}

// secondHop runs a proxy in front of the last server. It deletes the headers that Connection names, as RFC 9110, section
// 7.6.1 requires.
func secondHop(t *testing.T, last *upstream) *upstream {
	t.Helper()
	return serve(t, "127.0.0.1:0", httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: last.addr}))
}

// nextRequest returns the headers of the next request.
func (u *upstream) nextRequest(t *testing.T) http.Header {
	t.Helper()
	select {
	case r := <-u.requests:
		return r.Header
	case <-time.After(10 * time.Second):
		t.Fatal("no request arrived")
		return nil
	}
}

func TestConnectionHeaderDoesNotRemoveIdentity(t *testing.T) {
	forEach(t, func(t *testing.T, env *environment, s setup) {
		last := serve(t, "127.0.0.1:0", nil)
		hop := secondHop(t, last)
		p := env.ownEnvoy(t, s, envoy.Addresses{Upstream: "tcp://" + hop.addr})
		check := func(name string) {
			for _, value := range hop.nextRequest(t).Values("Connection") {
				if strings.Contains(strings.ToLower(value), "phantom") {
					t.Errorf("%s: the upstream's Connection header is %q", name, value)
				}
			}
			headers := last.nextRequest(t)
			for header, want := range map[string]string{
				"X-Phantom-Account-Id": env.creds.Account, "X-Phantom-Principal": "key",
				"X-Phantom-Credential-Id": env.creds.PlainID, "X-Phantom-Scopes": "",
			} {
				if got := headers.Values(header); !slices.Equal(got, []string{want}) {
					t.Errorf("%s: %s behind the second hop: %q, want %q", name, header, got, want)
				}
			}
		}
		me := request{path: "/api/v1/me"}.with(bearer(env.creds.Plain))
		for name, headers := range nominations {
			p.do(t, me.with(headers...))
			check(name)
		}
		me.http2 = true
		p.do(t, me)
		check("HTTP/2")
	})
}

func TestWebSocketThroughSecondHopHasIdentity(t *testing.T) {
	forEach(t, func(t *testing.T, env *environment, s setup) {
		last := serve(t, "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
			if err == nil {
				_ = conn.Close(websocket.StatusNormalClosure, "bye")
			}
		}))
		hop := secondHop(t, last)
		p := env.ownEnvoy(t, s, envoy.Addresses{Upstream: "tcp://" + hop.addr})
		status := upgrade(t, p.addr, bearer(env.creds.Chat), "Connection: keep-alive, Upgrade, x-phantom-account-id", "Connection: x-phantom-scopes")
		if !strings.HasPrefix(status, "HTTP/1.1 101 ") {
			t.Fatal(status)
		}
		if got := hop.nextRequest(t).Values("Connection"); !slices.Equal(got, []string{"Upgrade"}) {
			t.Errorf("Connection at the second hop: %q", got)
		}
		headers := last.nextRequest(t)
		for name, want := range map[string]string{"X-Phantom-Account-Id": env.creds.Account, "X-Phantom-Scopes": "chat:companion"} {
			if got := headers.Values(name); !slices.Equal(got, []string{want}) {
				t.Errorf("%s at the upstream: %q", name, got)
			}
		}
	})
}

// upgrade sends the handshake of a WebSocket and returns the status line of the answer.
func upgrade(t *testing.T, addr string, headers ...string) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, err = io.WriteString(conn, "GET /api/v1/chat/live HTTP/1.1\r\nHost: api.example\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"+strings.Join(headers, "\r\n")+"\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return line
}
