package httpapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serve starts a server and returns the protocol and path of the last request.
func serve(t *testing.T, start func(*httptest.Server)) (server *httptest.Server, arrived *string) {
	t.Helper()
	arrived = new(string)
	server = httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		*arrived = r.Proto + " " + r.URL.RequestURI()
	}))
	start(server)
	t.Cleanup(server.Close)
	return server, arrived
}

func request(t *testing.T, o ClientOptions, address, path string) (*http.Response, error) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	o.URL, o.ConnectTimeout = u, 10*time.Second
	c := NewClient(o)
	t.Cleanup(c.CloseIdleConnections)
	r, err := c.NewRequest(t.Context(), http.MethodGet, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := c.Do(r)
	if err == nil {
		_ = response.Body.Close()
	}
	return response, err
}

func TestClientOverTCPAndUnixSocket(t *testing.T) {
	server, arrived := serve(t, (*httptest.Server).Start)
	if _, err := request(t, ClientOptions{HTTP2: true}, server.URL+"/prefix/", "/v1/a%2Fb?c=d"); err != nil || *arrived != "HTTP/1.1 /prefix/v1/a%2Fb?c=d" {
		t.Errorf("%s, %v", *arrived, err)
	}
	path := filepath.Join(t.TempDir(), "s")
	_, arrived = serve(t, func(s *httptest.Server) {
		_ = s.Listener.Close()
		var err error
		if s.Listener, err = net.Listen("unix", path); err != nil {
			t.Fatal(err)
		}
		s.Start()
	})
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	if _, err := request(t, ClientOptions{Proxy: true}, "unix://"+path, "/v1"); err != nil || *arrived != "HTTP/1.1 /v1" {
		t.Errorf("%s, %v", *arrived, err)
	}
}

func TestClientOverTLS(t *testing.T) {
	server, arrived := serve(t, func(s *httptest.Server) { s.EnableHTTP2 = true; s.StartTLS() })
	trusted := &tls.Config{RootCAs: x509.NewCertPool(), NextProtos: []string{"h2", "http/1.1"}}
	trusted.RootCAs.AddCert(server.Certificate())
	dialTLS := func(ctx context.Context, network, address string) (net.Conn, error) {
		return (&tls.Dialer{Config: trusted}).DialContext(ctx, network, address)
	}
	for name, c := range map[string]struct {
		o    ClientOptions
		want string
	}{
		"HTTP/2":               {ClientOptions{TLS: trusted, HTTP2: true}, "HTTP/2.0 /"},
		"HTTP/2 with a dialer": {ClientOptions{DialTLS: dialTLS, HTTP2: true}, "HTTP/2.0 /"},
		"HTTP/1.1":             {ClientOptions{TLS: trusted}, "HTTP/1.1 /"},
		"unknown CA":           {ClientOptions{HTTP2: true}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			*arrived = ""
			if _, err := request(t, c.o, server.URL, "/"); (err == nil) != (c.want != "") || *arrived != c.want {
				t.Errorf("got %q, %v, want %q", *arrived, err, c.want)
			}
		})
	}
}

func TestClientFollowsNoRedirect(t *testing.T) {
	elsewhere, arrived := serve(t, (*httptest.Server).Start)
	server := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	t.Cleanup(server.Close)
	response, err := request(t, ClientOptions{}, server.URL, "/")
	if err != nil || response.StatusCode != http.StatusTemporaryRedirect || *arrived != "" {
		t.Errorf("%v, arrived %q", err, *arrived)
	}
}

func TestReadBody(t *testing.T) {
	if text, err := ReadBody(strings.NewReader("four"), 4); err != nil || string(text) != "four" {
		t.Errorf("%q, %v", text, err)
	}
	if text, err := ReadBody(strings.NewReader("fifth"), 4); err == nil {
		t.Errorf("%q", text)
	}
}

func TestWithoutURL(t *testing.T) {
	if err := WithoutURL(&url.Error{Op: "Get", URL: "http://x", Err: io.EOF}); err.Error() != io.EOF.Error() {
		t.Error(err)
	}
	if err := WithoutURL(context.Canceled); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
