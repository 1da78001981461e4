//go:build cgo

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// The tests run without Envoy: its functions, which the SDK's C part calls, are unresolved.

// keyd is a real key API behind a proxy that notes what it is asked.
type keyd struct {
	url   string
	token string
	creds testbed.Credentials

	mu       sync.Mutex
	resolves int
	polled   map[string]bool // names of sidecars that polled
	left     map[string]bool // names of sidecars that deregistered
}

var shareKeyd struct {
	once sync.Once
	*keyd
	tb    *testbed.Testbed
	proxy *httptest.Server
	err   error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if s := &shareKeyd; s.proxy != nil {
		s.proxy.CloseClientConnections()
		s.proxy.Close()
	}
	if s := &shareKeyd; s.tb != nil {
		if err := s.tb.Close(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func startKeyd(t *testing.T) *keyd {
	t.Helper()
	s := &shareKeyd
	s.once.Do(func() { s.err = startAll(context.Background()) })
	if s.err != nil {
		t.Fatal(s.err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resolves, s.polled, s.left = 0, map[string]bool{}, map[string]bool{}
	return s.keyd
}

func startAll(ctx context.Context) (err error) {
	bin, err := os.MkdirTemp("", "programs")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(bin) }() // keyd runs by then
	if err := testbed.Build(ctx, bin, "cmd/keyd"); err != nil {
		return err
	}
	s := &shareKeyd
	if s.tb, err = testbed.New(bin); err != nil {
		return err
	}
	if _, err := s.tb.StartKeyd(ctx, nil); err != nil {
		return err
	}
	k := &keyd{token: s.tb.File("key-api.token")}
	if k.creds, err = s.tb.Seed(ctx); err != nil {
		return err
	}
	s.proxy = httptest.NewServer(k.through(s.tb.Socket("sidecars")))
	k.url, s.keyd = s.proxy.URL, k
	return nil
}

// through returns a proxy to keyd's socket.
func (k *keyd) through(socket string) http.Handler {
	next := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "keyd" },
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		k.note(r.URL.Path, body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

func (k *keyd) note(path string, body []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch path {
	case sidecarapi.ResolvePath:
		k.resolves++
	case sidecarapi.ChangesPath:
		var poll sidecarapi.ChangesRequest
		if json.Unmarshal(body, &poll) != nil {
			return
		}
		k.polled[poll.Sidecar] = true
		if poll.Leave {
			k.left[poll.Sidecar] = true
		}
	}
}

// counts returns the numbers of resolves, of sidecars that polled and of those that deregistered.
func (k *keyd) counts() (resolves, polled, left int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.resolves, len(k.polled), len(k.left)
}

// fields returns a filter_config. The text is more of its fields.
func (k *keyd) fields(admin, more string) []byte {
	return fmt.Appendf(nil, `{"listen":{"admin":"unix://%s"},"key_api":{"url":"%s","token_file":"%s"},"drain":"5s"%s}`, admin, k.url, k.token, more)
}
