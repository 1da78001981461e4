package envoy_test

import (
	"bufio"
	"context"
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

// nominations are what a client's Connection header may say so that the next hop takes the identity away.
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

// secondHop is a proxy that deletes the headers that Connection names, as RFC 9110, section 7.6.1 demands, in front
// of the last server.
func secondHop(t *testing.T, last *upstream) *upstream {
	t.Helper()
	return serve(t, "127.0.0.1:0", httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: last.addr}))
}

// nextRequest returns the headers of the request that arrived.
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

func TestConnectionHeaderDoesNotTakeTheIdentityAway(t *testing.T) {
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			w := shared(t)
			last := serve(t, "127.0.0.1:0", nil)
			hop := secondHop(t, last)
			f := w.ownEnvoy(t, version, envoy.Addresses{Upstream: "tcp://" + hop.addr})
			check := func(name string) {
				for _, value := range hop.nextRequest(t).Values("Connection") {
					if strings.Contains(strings.ToLower(value), "phantom") {
						t.Errorf("%s: the upstream's Connection header is %q", name, value)
					}
				}
				headers := last.nextRequest(t)
				for header, want := range map[string]string{
					"X-Phantom-Account-Id": w.held.account, "X-Phantom-Principal": "key",
					"X-Phantom-Credential-Id": w.held.plainID, "X-Phantom-Scopes": "",
				} {
					if got := headers.Values(header); !slices.Equal(got, []string{want}) {
						t.Errorf("%s: %s behind the second hop: %q, want %q", name, header, got, want)
					}
				}
			}
			me := request{path: "/api/v1/me"}.with(bearer(w.held.plain))
			for name, headers := range nominations {
				f.ask(t, me.with(headers...))
				check(name)
			}
			me.http2 = true
			f.ask(t, me)
			check("HTTP/2")
		})
	}
}

// TestWebSocketPastASecondHop: the upgrade works, and the identity arrives with it.
func TestWebSocketPastASecondHop(t *testing.T) {
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			w := shared(t)
			last := serve(t, "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
				if err == nil {
					_ = conn.Close(websocket.StatusNormalClosure, "bye")
				}
			}))
			hop := secondHop(t, last)
			f := w.ownEnvoy(t, version, envoy.Addresses{Upstream: "tcp://" + hop.addr})
			head := upgradeByHand(t, f.addr, bearer(w.held.chat), "Connection: keep-alive, Upgrade, x-phantom-account-id", "Connection: x-phantom-scopes")
			if !strings.HasPrefix(head, "HTTP/1.1 101 ") {
				t.Fatalf("%s", head)
			}
			if got := hop.nextRequest(t).Values("Connection"); !slices.Equal(got, []string{"Upgrade"}) {
				t.Errorf("Connection at the second hop: %q", got)
			}
			headers := last.nextRequest(t)
			for name, want := range map[string]string{"X-Phantom-Account-Id": w.held.account, "X-Phantom-Scopes": "chat:companion"} {
				if got := headers.Values(name); !slices.Equal(got, []string{want}) {
					t.Errorf("%s at the upstream: %q", name, got)
				}
			}
		})
	}
}

// upgradeByHand sends the handshake of a WebSocket and returns the first line of the answer.
func upgradeByHand(t *testing.T, addr string, headers ...string) string {
	t.Helper()
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(context.Background(), "tcp", addr)
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
