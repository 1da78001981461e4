package envoy_test

import (
	"net"
	"net/http"
	"strings"
	"testing"
)

// upstream is a server of the test behind Envoy, over HTTP/1.1 and HTTP/2.
type upstream struct {
	addr     string // HOST:PORT or the path of a Unix socket
	requests chan *http.Request
}

// serve listens at HOST:PORT or at the path of a Unix socket. Without a handler it answers each request with 200.
func serve(t *testing.T, address string, handler http.Handler) *upstream {
	t.Helper()
	network := "tcp"
	if strings.HasPrefix(address, "/") {
		network = "unix"
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{addr: listener.Addr().String(), requests: make(chan *http.Request, 1000)}
	server := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case u.requests <- r:
		default: // not all tests read them
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
