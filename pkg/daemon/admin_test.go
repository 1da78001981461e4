package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func request(h http.Handler, method, path string) (int, string) {
	return requestFrom("127.0.0.1:4321", h, method, path)
}

func requestFrom(peer string, h http.Handler, method, path string) (int, string) {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, path, nil)
	r.RemoteAddr = peer
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestProfilesAreLocal(t *testing.T) {
	h := newRuntime("thing", "info", io.Discard).adminHandler()
	for peer, want := range map[string]int{
		"127.0.0.1:1": 200, "[::1]:1": 200, "[::ffff:127.0.0.1]:1": 200, "@": 200,
		"192.0.2.1:1": 403, "[2001:db8::1]:1": 403,
	} {
		if code, _ := requestFrom(peer, h, http.MethodGet, "/debug/pprof/cmdline"); code != want {
			t.Errorf("%s: got %d, want %d", peer, code, want)
		}
		if code, _ := requestFrom(peer, h, http.MethodGet, "/livez"); code != 200 {
			t.Errorf("%s: got %d from /livez", peer, code)
		}
	}
}

func TestReadiness(t *testing.T) {
	rt := newRuntime("thing", "info", io.Discard)
	h := rt.adminHandler()
	expect := func(status int, body string) {
		t.Helper()
		if code, got := request(h, http.MethodGet, "/readyz"); code != status || got != body {
			t.Errorf("got %d %q, want %d %q", code, got, status, body)
		}
		if code, _ := request(h, http.MethodGet, "/livez"); code != http.StatusOK {
			t.Errorf("got %d from /livez", code)
		}
	}
	store, cache := errors.New("locked"), errors.New("no answer yet")
	rt.ReadyWhen("store", func() error { return store })
	rt.ReadyWhen("cache", func() error { return cache })
	expect(503, "starting\n")
	close(rt.ready.started)
	expect(503, "store: locked\ncache: no answer yet\n")
	store = nil
	expect(503, "cache: no answer yet\n")
	cache = nil
	expect(200, "ready\n")
	close(rt.ready.stopping)
	expect(503, "stopping\n")
}

func TestAdminHandler(t *testing.T) {
	http.HandleFunc("/from-the-default-mux", func(http.ResponseWriter, *http.Request) {})
	h := newRuntime("thing", "info", io.Discard).adminHandler()
	for path, want := range map[string]string{
		"/metrics":                   "thing_build_info{",
		"/debug/pprof/":              "goroutine",
		"/debug/pprof/cmdline":       "daemon",
		"/debug/pprof/heap?debug=1":  "heap profile",
		"/debug/pprof/symbol?0x1234": "num_symbols",
	} {
		if code, body := request(h, http.MethodGet, path); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: got %d without %q", path, code, want)
		}
	}
	for path, want := range map[string]int{"/": 404, "/from-the-default-mux": 404} {
		if code, _ := request(h, http.MethodGet, path); code != want {
			t.Errorf("%s: got %d, want %d", path, code, want)
		}
	}
	if code, _ := request(h, http.MethodPost, "/readyz"); code != http.StatusMethodNotAllowed {
		t.Errorf("got %d from POST /readyz", code)
	}
}

// serveOnce serves a handler with ServeHTTP until rt.stop.
func serveOnce(t *testing.T, log io.Writer, h http.Handler) (url string, rt *Runtime) {
	t.Helper()
	rt = newRuntime("thing", "debug", log)
	ln, err := rt.Listen("listen.sidecars", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	rt.ServeHTTP("sidecars", ln, nil, h)
	return "http://" + ln.Addr().String(), rt
}

func get(url string) (string, error) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	answer, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	return string(body), err
}

// TestPanicInHandler: the log has the place and the type of a panic, and never its text.
func TestPanicInHandler(t *testing.T) {
	defer goleak.VerifyNone(t)
	var log bytes.Buffer
	url, rt := serveOnce(t, &log, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/index" {
			_ = r.URL.Path[len(r.URL.Path)*2]
		}
		panic("the key is hunter2")
	}))
	for _, path := range []string{"/text", "/index"} {
		if body, err := get(url + path); err == nil {
			t.Errorf("%s: got the answer %q", path, body)
		}
	}
	if err := rt.stop(time.Second); err != nil {
		t.Error(err)
	}
	rt.lines.flush(time.Minute)
	text := log.String()
	for _, want := range []string{`"panic":"string"`, `"panic":"runtime error: index out of range [12] with length 6"`, "admin_test.go"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in the log:\n%s", want, text)
		}
	}
	if strings.Contains(text, "hunter2") {
		t.Errorf("the text of the panic is in the log:\n%s", text)
	}
}

// TestStopWaitsForRequests: a stop waits for requests in flight and cancels them at the limit.
func TestStopWaitsForRequests(t *testing.T) {
	for name, c := range map[string]struct {
		limit time.Duration
		ends  bool
	}{"in time": {10 * time.Second, true}, "too late": {200 * time.Millisecond, false}} {
		t.Run(name, func(t *testing.T) {
			defer goleak.VerifyNone(t)
			begun, stopping := make(chan struct{}), make(chan struct{})
			url, rt := serveOnce(t, io.Discard, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				close(begun)
				if c.ends {
					<-stopping
					_, _ = io.WriteString(w, "done")
					return
				}
				<-r.Context().Done()
			}))
			answered := make(chan string, 1)
			go func() {
				body, err := get(url)
				if err != nil {
					body = "cancelled"
				}
				answered <- body
			}()
			<-begun
			// Added last, so it is stopped first: the request ends while the server waits.
			rt.Add(Component{Name: "last", Stop: func(context.Context) error { close(stopping); return nil }})
			if err := rt.stop(c.limit); err != nil {
				t.Error(err)
			}
			want := map[bool]string{true: "done", false: "cancelled"}[c.ends]
			if got := <-answered; got != want {
				t.Errorf("got the answer %q, want %q", got, want)
			}
		})
	}
}

func TestDialTargets(t *testing.T) {
	for listen, want := range map[string]string{
		"0.0.0.0:1": "127.0.0.1:1 [::1]:1", "[::]:1": "127.0.0.1:1 [::1]:1", "127.0.0.1:1": "127.0.0.1:1", "localhost:1": "localhost:1",
		"[::1]:1": "[::1]:1", "[fe80::1%eth0]:1": "[fe80::1%eth0]:1", "/run/a.sock": "/run/a.sock",
	} {
		if got := strings.Join(dialTargets(namedAddr(listen)), " "); got != want {
			t.Errorf("%s: got %s, want %s", listen, got, want)
		}
	}
}

// TestHealthcheckOfOneFamily: a health check of a wildcard address reaches a listener of either family.
func TestHealthcheckOfOneFamily(t *testing.T) {
	for _, loopback := range loopbacks(t) {
		ln, err := Listen(t.Context(), "listen.admin", namedAddr(net.JoinHostPort(loopback, "0")))
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: http.HandlerFunc(alive), ReadHeaderTimeout: time.Second}
		go func() { _ = server.Serve(ln) }()
		_, port, err := net.SplitHostPort(ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		for _, wildcard := range []string{"0.0.0.0", "::"} {
			if err := requestReady(namedAddr(net.JoinHostPort(wildcard, port))); err != nil {
				t.Errorf("%s at %s: %v", loopback, wildcard, err)
			}
		}
		_ = server.Close()
	}
}

type namedAddr string

func (namedAddr) Network() string  { return "tcp" }
func (a namedAddr) String() string { return string(a) }
