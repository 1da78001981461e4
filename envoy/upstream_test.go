package envoy_test

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
)

// upstream is a test's own server behind Envoy, over HTTP/1.1 and HTTP/2. It keeps the
// last request's headers.
type upstream struct {
	addr     string // HOST:PORT or the path of a Unix socket
	requests chan *http.Request
}

// serve listens on HOST:PORT or on the path of a Unix socket. The handler may be nil: then every request is answered
// with 200.
func serve(t *testing.T, address string, handler http.Handler) *upstream {
	t.Helper()
	network := "tcp"
	if strings.HasPrefix(address, "/") {
		network = "unix"
	}
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{addr: listener.Addr().String(), requests: make(chan *http.Request, 1000)}
	server := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case u.requests <- r:
		default: // nobody reads them
		}
		if handler != nil {
			handler.ServeHTTP(w, r)
		}
	})}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return u
}
