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

// road is the way from one sidecar to keyd: a TCP proxy that can hurt the
// connection, and behind it an HTTP proxy that can hurt the answers.
type road struct {
	tcp *toxiproxy.Proxy
	url string // for the sidecar

	answer atomic.Pointer[answerer] // in keyd's place; nil: keyd answers
}

type answerer func(w http.ResponseWriter, r *http.Request, keyd http.Handler)

// newRoad lays a road to the site's keyd.
func newRoad(t *testing.T, s *site) *road {
	t.Helper()
	way := &road{}
	toKeyd := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.Socket("sidecars"))
	}}
	keyd := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "keyd"})
	keyd.Transport = toKeyd
	keyd.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	keyd.FlushInterval = -1
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if answer := way.answer.Load(); answer != nil {
			(*answer)(w, r, keyd)
			return
		}
		keyd.ServeHTTP(w, r)
	}))
	way.lay(t, "127.0.0.1:0", server.Listener.Addr().String())
	way.url = "http://" + way.tcp.Listen
	t.Cleanup(func() {
		way.tcp.Stop()
		server.CloseClientConnections()
		server.Close()
		toKeyd.CloseIdleConnections()
	})
	return way
}

func (r *road) lay(t *testing.T, listen, upstream string) {
	t.Helper()
	r.tcp = toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), "road", listen, upstream)
	if err := r.tcp.Start(); err != nil {
		t.Fatal(err)
	}
}

// heal takes all toxics away. Toxiproxy may wait for ever for one whose connection has
// gone at the same moment; then the road is laid anew.
func (r *road) heal(t *testing.T) {
	t.Helper()
	const enough = 2 * time.Second
	old, healed := r.tcp, make(chan struct{})
	go func() {
		defer close(healed)
		old.Toxics.ResetToxics(context.WithoutCancel(t.Context()))
	}()
	select {
	case <-healed:
	case <-time.After(enough):
		old.Stop()
		r.lay(t, old.Listen, old.Upstream)
	}
}

// fault is something that can happen to a road.
type fault struct {
	name  string
	begin func(t *testing.T, r *road)
	end   func(t *testing.T, r *road)
	// passes: everything is answered all the same.
	passes bool
	// asked: the key API answers, and so is not down, but tells nothing of use.
	asked bool
}

// toxic is a fault of the connection.
func toxic(name string, toxics ...string) fault {
	return fault{
		name: name,
		begin: func(t *testing.T, r *road) {
			t.Helper()
			for _, one := range toxics {
				if _, err := r.tcp.Toxics.AddToxicJson(strings.NewReader(one)); err != nil {
					t.Fatal(err)
				}
			}
		},
		end: func(t *testing.T, r *road) { t.Helper(); r.heal(t) },
	}
}

// answered is a fault of keyd's answers.
func answered(name string, with answerer) fault {
	return fault{
		name:  name,
		begin: func(_ *testing.T, r *road) { r.answer.Store(&with) },
		end:   func(_ *testing.T, r *road) { r.answer.Store(nil) },
	}
}

// status answers with an error as keyd writes it.
func status(code int, name string) answerer {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_, _ = w.Write([]byte(`{"error":"` + name + `","message":"a fault of the test","statusCode":` + strconv.Itoa(code) + `}`))
	}
}

// truncated cuts the connection in the middle of keyd's answer.
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

// malformed answers 200 with what is no answer, another each time.
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

// meaningless lets keyd answer, and puts values into the facts that the protocol does
// not know; the change log is malformed.
func meaningless(w http.ResponseWriter, r *http.Request, keyd http.Handler) {
	whole := httptest.NewRecorder()
	keyd.ServeHTTP(whole, r)
	body := strings.NewReplacer(`"found":true`, `"found":1`, `"found":false`, `"found":null`, `"lease_ms"`, `"lease"`).Replace(whole.Body.String())
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(whole.Code)
	_, _ = w.Write([]byte(body))
}

// outage closes the listener and every connection.
var outage = fault{
	name:  "down",
	begin: func(_ *testing.T, r *road) { r.tcp.Stop() },
	end: func(t *testing.T, r *road) {
		t.Helper()
		eventually(t, "the proxy has its port again", r.tcp.Start)
	},
}

// notFound answers as an intermediary does that knows no such path.
var notFound = answered("404 of an intermediary", func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	http.Error(w, "<html>404 page not found</html>", http.StatusNotFound)
})

// faults are the rows of the matrix.
func faults() []fault {
	inTime := toxic("slow, in time", `{"type":"latency","attributes":{"latency":50}}`)
	inTime.passes = true
	nothing := answered("meaningless", meaningless)
	nothing.asked = true
	return []fault{
		outage,
		toxic("reset", `{"type":"reset_peer","attributes":{"timeout":0}}`),
		inTime,
		toxic("slow", `{"type":"latency","attributes":{"latency":3000}}`),
		toxic("slow drip", `{"type":"slicer","attributes":{"average_size":1,"size_variation":0,"delay":100000}}`),
		answered("truncated", truncated),
		answered("malformed", malformed()),
		nothing,
		answered("500", status(500, "INTERNAL_SERVER_ERROR")),
		answered("401", status(401, "UNAUTHORIZED")),
		answered("429", status(429, "TOO_MANY_REQUESTS")),
		notFound,
		toxic("hang", `{"type":"timeout","stream":"upstream","attributes":{"timeout":0}}`),
		toxic("half-open", `{"type":"timeout","stream":"downstream","attributes":{"timeout":0}}`),
	}
}
