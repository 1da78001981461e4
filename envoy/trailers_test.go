package envoy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/phantomrouter/phantom-authz/envoy"
)

// recordTrailers returns a function that sends a request with trailers through an Envoy and returns the trailers that
// the upstream receives.
func (env *environment) recordTrailers(t *testing.T, s setup) func(http2 bool) http.Header {
	t.Helper()
	trailers := make(chan http.Header, 1)
	upstream := serve(t, "127.0.0.1:0", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		trailers <- r.Trailer.Clone()
	}))
	// By default Envoy would reset a stream with underscores in names.
	p := env.ownEnvoy(t, s, envoy.Addresses{Upstream: "tcp://" + upstream.addr}, allowUnderscores)
	return func(http2 bool) http.Header {
		p.sendTrailers(t, http2, bearer(env.creds.Chat), http.Header{
			"X-Phantom-Account-Id": {"acc_evil"}, "X-Phantom-Scopes": {"admin"}, "X_phantom_scopes": {"admin"},
			"X_phantom-Account_id": {"acc_evil"}, "X-Other": {"1"},
		})
		return <-trailers
	}
}

func (p *proxy) sendTrailers(t *testing.T, http2 bool, authorization string, trailers http.Header) {
	t.Helper()
	if http2 {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+p.addr+"/api/v1/chat", io.NopCloser(strings.NewReader("body")))
		if err != nil {
			t.Fatal(err)
		}
		r.Trailer = trailers
		r.Header.Set("Authorization", strings.TrimPrefix(authorization, "Authorization: "))
		response, err := http2Only.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		return
	}
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, _ = fmt.Fprintf(conn, "POST /api/v1/chat HTTP/1.1\r\nHost: api.example\r\n%s\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n", authorization)
	_ = trailers.Write(conn)
	_, _ = io.WriteString(conn, "\r\n")
	if _, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil {
		t.Fatal(err)
	}
}
