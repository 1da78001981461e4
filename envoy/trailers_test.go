package envoy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/phantomrouter/phantom-authz/envoy"
)

// recordTrailers returns a function that sends a request with trailers through an
// Envoy to an upstream of the test's own, and tells which trailers arrived there.
func (w *world) recordTrailers(t *testing.T, version string) func(http2 bool) http.Header {
	t.Helper()
	arrived := make(chan http.Header, 1)
	upstream := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		arrived <- r.Trailer.Clone()
	}))
	upstream.Config.Protocols = new(http.Protocols)
	upstream.Config.Protocols.SetHTTP1(true)
	upstream.Config.Protocols.SetUnencryptedHTTP2(true)
	upstream.Start()
	t.Cleanup(upstream.Close)

	// With underscores in their names Envoy would reset the stream.
	own := w.ownEnvoy(t, version, envoy.Addresses{Upstream: "tcp://" + upstream.Listener.Addr().String()}, allowUnderscores)
	return func(http2 bool) http.Header {
		own.sendTrailers(t, http2, bearer(w.held.chat), http.Header{
			"X-Phantom-Account-Id": {"acc_evil"}, "X-Phantom-Scopes": {"admin"}, "X_phantom_scopes": {"admin"},
			"X_phantom-Account_id": {"acc_evil"}, "X-Other": {"1"},
		})
		return <-arrived
	}
}

func (f *front) sendTrailers(t *testing.T, http2 bool, authorization string, trailers http.Header) {
	t.Helper()
	if http2 {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+f.addr+"/api/v1/chat", io.NopCloser(strings.NewReader("body")))
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
	conn, err := net.Dial("tcp", f.addr)
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
