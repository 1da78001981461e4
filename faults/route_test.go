package faults_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// route is the connection of one sidecar to keyd: a TCP proxy with faults of the connection, and behind it an HTTP proxy with
// faults of the answers.
type route struct {
	tcp *toxiproxy.Proxy
	url string // for the sidecar

	answer atomic.Pointer[answerer] // replaces keyd; nil: keyd answers
}

type answerer func(w http.ResponseWriter, r *http.Request, keyd http.Handler)

// newRoute makes a route to the fixture's keyd.
func newRoute(t *testing.T, s *fixture) *route {
	t.Helper()
	rt := &route{}
	toKeyd := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.Socket("sidecars"))
	}}
	keyd := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "keyd"})
	keyd.Transport = toKeyd
	keyd.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	keyd.FlushInterval = -1
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if answer := rt.answer.Load(); answer != nil {
			(*answer)(w, r, keyd)
			return
		}
		keyd.ServeHTTP(w, r)
	}))
	if err := rt.start("127.0.0.1:0", server.Listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	rt.url = "http://" + rt.tcp.Listen
	t.Cleanup(func() {
		rt.tcp.Stop()
		server.CloseClientConnections()
		server.Close()
		toKeyd.CloseIdleConnections()
	})
	return rt
}

// start starts the TCP proxy.
func (r *route) start(listen, upstream string) error {
	r.tcp = toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), "keyd", listen, upstream)
	return r.tcp.Start()
}

// reset removes all toxics. Toxiproxy may block forever if a connection closes at the same time; then reset starts a new proxy.
func (r *route) reset(t *testing.T) {
	t.Helper()
	const timeout = 2 * time.Second
	old, done := r.tcp, make(chan struct{})
	go func() {
		defer close(done)
		old.Toxics.ResetToxics(context.WithoutCancel(t.Context()))
	}()
	select {
	case <-done:
	case <-time.After(timeout):
		go old.Stop() // closes the listener, and may then block too
		eventually(t, "a new proxy on "+old.Listen, func() error { return r.start(old.Listen, old.Upstream) })
	}
}

// fault is a fault of a route.
type fault struct {
	name  string
	begin func(t *testing.T, r *route)
	end   func(t *testing.T, r *route)
	// harmless: all requests are answered in time.
	harmless bool
	// reachable: the key API answers, so it is not down, but the answers are unusable.
	reachable bool
}

// toxic returns a fault of the connection.
func toxic(name string, toxics ...string) fault {
	return fault{
		name: name,
		begin: func(t *testing.T, r *route) {
			t.Helper()
			for _, one := range toxics {
				if _, err := r.tcp.Toxics.AddToxicJson(strings.NewReader(one)); err != nil {
					t.Fatal(err)
				}
			}
		},
		end: func(t *testing.T, r *route) { t.Helper(); r.reset(t) },
	}
}

// answers returns a fault of keyd's answers.
func answers(name string, with answerer) fault {
	return fault{
		name:  name,
		begin: func(_ *testing.T, r *route) { r.answer.Store(&with) },
		end:   func(_ *testing.T, r *route) { r.answer.Store(nil) },
	}
}

// status answers with an error envelope.
func status(code int, name string) answerer {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_, _ = w.Write([]byte(`{"error":"` + name + `","message":"test fault","statusCode":` + strconv.Itoa(code) + `}`))
	}
}

// truncated closes the connection in the middle of keyd's answer.
func truncated(w http.ResponseWriter, r *http.Request, keyd http.Handler) {
	whole := httptest.NewRecorder()
	keyd.ServeHTTP(whole, r)
	for name, values := range whole.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(whole.Code)
	_, _ = w.Write(whole.Body.Bytes()[:whole.Body.Len()/2])
	panic(http.ErrAbortHandler)
}

// malformed answers 200 with a different invalid body each time.
func malformed() answerer {
	var next atomic.Int64
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		bodies := []string{
			``, `{`, `null`, `[]`, `{}`, `<html>`, "\xff\xfe", `{"epoch":"","revision":0,"credentials":[],"changes":[],"lease_ms":60000}`,
			`{"epoch":"e","revision":-1,"credentials":[],"changes":[],"lease_ms":60000}`,
			`{"epoch":"e","revision":1,"credentials":[{"sha256":"0","found":false}],"changes":null,"lease_ms":60000}`,
			`{"epoch":"e","epoch":"f","revision":1,"credentials":[],"changes":[{}],"lease_ms":60000}`,
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(bodies[int(next.Add(1))%len(bodies)]))
	}
}

// unusable replaces values in keyd's answers by ones that the protocol does not allow.
func unusable(w http.ResponseWriter, r *http.Request, keyd http.Handler) {
	whole := httptest.NewRecorder()
	keyd.ServeHTTP(whole, r)
	body := strings.NewReplacer(`"found":true`, `"found":1`, `"found":false`, `"found":null`, `"lease_ms"`, `"lease"`).Replace(whole.Body.String())
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(whole.Code)
	_, _ = w.Write([]byte(body))
}

// outage closes the listener and all connections.
var outage = fault{
	name:  "down",
	begin: func(_ *testing.T, r *route) { r.tcp.Stop() },
	end: func(t *testing.T, r *route) {
		t.Helper()
		eventually(t, "restart of the proxy", r.tcp.Start)
	},
}

// notFound answers as an intermediary without a route does.
var notFound = answers("404 of an intermediary", func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	http.Error(w, "<html>404 page not found</html>", http.StatusNotFound)
})

// faults are the rows of the matrix.
func faults() []fault {
	inTime := toxic("slow, in time", `{"type":"latency","attributes":{"latency":50}}`)
	inTime.harmless = true
	unusable := answers("unusable", unusable)
	unusable.reachable = true
	return []fault{
		outage,
		toxic("reset", `{"type":"reset_peer","attributes":{"timeout":0}}`),
		inTime,
		toxic("slow", `{"type":"latency","attributes":{"latency":3000}}`),
		toxic("slow drip", `{"type":"slicer","attributes":{"average_size":1,"size_variation":0,"delay":100000}}`),
		answers("truncated", truncated),
		answers("malformed", malformed()),
		unusable,
		answers("500", status(500, "INTERNAL_SERVER_ERROR")),
		answers("401", status(401, "UNAUTHORIZED")),
		answers("429", status(429, "TOO_MANY_REQUESTS")),
		notFound,
		toxic("hang", `{"type":"timeout","stream":"upstream","attributes":{"timeout":0}}`),
		toxic("half-open", `{"type":"timeout","stream":"downstream","attributes":{"timeout":0}}`),
	}
}

// TestResetOfABlockedProxy: the proxy's lock is held, so it can neither remove a toxic nor stop.
func TestResetOfABlockedProxy(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	r := &route{}
	if err := r.start("127.0.0.1:0", server.Listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	blocked := r.tcp
	blocked.Toxics.Lock()
	conn, err := net.Dial("tcp", blocked.Listen) // its accept waits for the lock
	if err != nil {
		t.Fatal(err)
	}
	r.reset(t)
	response, err := http.Get("http://" + r.tcp.Listen)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	r.tcp.Stop()
	_ = conn.Close()
	blocked.Toxics.Unlock()
}
