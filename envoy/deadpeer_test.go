package envoy_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/envoy"
)

// wire is a TCP proxy that can cut its open connections: they stay open and carry no data, as when a node or an entry of
// a NAT table is lost. Later connections work.
type wire struct {
	addr   string
	passed atomic.Int64 // bytes
	mu     sync.Mutex
	cut    chan struct{} // closed to cut the connections so far
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{addr: listener.Addr().String(), cut: make(chan struct{})}
	ended := make(chan struct{})
	t.Cleanup(func() { _ = listener.Close(); close(ended) })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			peer, err := net.Dial("tcp", to)
			if err != nil {
				_ = conn.Close()
				continue
			}
			w.mu.Lock()
			cut := w.cut
			w.mu.Unlock()
			go w.pass(conn, peer, cut, ended)
			go w.pass(peer, conn, cut, ended)
		}
	}()
	return w
}

// pass copies until the connection is cut, and then keeps it open until the test ends.
func (w *wire) pass(to, from net.Conn, cut, ended chan struct{}) {
	defer func() { _ = to.Close() }()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		select {
		case <-cut:
			<-ended
			return
		default:
		}
		w.passed.Add(int64(n))
		if _, writeErr := to.Write(buffer[:n]); err != nil || writeErr != nil {
			return
		}
	}
}

// cutAll cuts the open connections.
func (w *wire) cutAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.cut)
	w.cut = make(chan struct{})
}

// recovers sends a request every 500 ms, too seldom for a second connection, until one is answered with 200.
func (p *proxy) recovers(t *testing.T, r request, within time.Duration) {
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	answered := make(chan struct{})
	var once sync.Once
	var sending sync.WaitGroup
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-answered:
			cancel()
			sending.Wait()
			return
		case <-ctx.Done():
			sending.Wait()
			t.Errorf("Envoy %s: no recovery after %v", p.version, within)
			return
		case <-tick.C:
			sending.Go(func() {
				if got, err := p.send(ctx, r); err == nil && got.status == http.StatusOK {
					once.Do(func() { close(answered) })
				}
			})
		}
	}
}

// TestCutConnectionToSidecar: TCP itself would detect it after 15 minutes.
func TestCutConnectionToSidecar(t *testing.T) {
	forEachVersionInParallel(t, func(t *testing.T, env *environment, version string) {
		sidecar, _ := serveChecks(t, "tcp", "127.0.0.1:0", allowAll)
		w := newWire(t, sidecar)
		p := env.ownEnvoy(t, version, envoy.Addresses{Authz: "tcp://" + w.addr})
		for range 20 { // each worker has its own connection
			p.do(t, request{path: companion})
		}
		w.cutAll()
		p.recovers(t, request{path: companion}, 6*time.Second)
	})
}

// TestCutConnectionToUpstream: over HTTP/2 many requests share a connection, which Envoy would use until TCP detects the
// failure.
func TestCutConnectionToUpstream(t *testing.T) {
	forEachVersionInParallel(t, func(t *testing.T, env *environment, version string) {
		w := newWire(t, env.echo)
		p := env.ownEnvoy(t, version, envoy.Addresses{Upstream: "tcp://" + w.addr})
		r := request{path: companion, http2: true}.with(bearer(env.creds.Chat))
		for range 20 {
			p.do(t, r)
		}
		w.cutAll()
		p.recovers(t, r, 30*time.Second)
	})
}

// TestCutConnectionToKeydOverTLS uses the protocol options of the cluster owners in k8s/base: a waiting request ends long
// before its timeout of 75 s.
func TestCutConnectionToKeydOverTLS(t *testing.T) {
	deployed, err := os.ReadFile("../k8s/base/config/envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	options := cluster(decode(t, deployed), "owners")["typed_extension_protocol_options"]
	forEachVersionInParallel(t, func(t *testing.T, env *environment, version string) {
		released := make(chan struct{})
		keyd := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Has("wait_ms") {
				<-released
			}
		}))
		keyd.EnableHTTP2 = true
		keyd.StartTLS()
		t.Cleanup(keyd.Close)
		defer close(released)
		w := newWire(t, keyd.Listener.Addr().String())
		p := env.ownEnvoy(t, version, envoy.Addresses{Owners: "tcp://" + w.addr}, func(config map[string]any) {
			owners := cluster(config, "owners")
			owners["typed_extension_protocol_options"] = options
			owners["transport_socket"] = map[string]any{"name": "envoy.transport_sockets.tls", "typed_config": map[string]any{
				"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
			}}
		})
		if got := p.do(t, owner(p, request{path: "/api/v1/me/keys"})); got.status != 200 {
			t.Fatalf("%d %s", got.status, got.body)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		var waiting sync.WaitGroup
		before := w.passed.Load()
		waiting.Go(func() {
			got, err := p.send(ctx, owner(p, request{path: "/api/v1/me/keys?wait_ms=60000"}))
			if err != nil || got.body != noKeyd.body() {
				t.Errorf("%d %s %v", got.status, got.body, err)
			}
		})
		eventually(t, "a request to keyd", func() error {
			if w.passed.Load() == before {
				return errors.New("none")
			}
			return nil
		})
		w.cutAll()
		waiting.Wait()
	})
}

// TestIdleConnectionsAreProbed: the kernel probes idle connections to the upstream and to keyd, and closes a broken one
// within 19 s.
func TestIdleConnectionsAreProbed(t *testing.T) {
	forEachVersion(t, func(t *testing.T, env *environment, version string) {
		for cluster, target := range map[string]string{"upstream": companion, "owners": "/api/v1/me/keys"} {
			peer := serve(t, "127.0.0.1:0", nil)
			p := env.ownEnvoy(t, version, envoy.Addresses{Owners: "tcp://" + peer.addr, Upstream: "tcp://" + peer.addr})
			p.do(t, owner(p, request{path: target}))
			_, text, _ := strings.Cut(peer.addr, ":")
			port, err := strconv.Atoi(text)
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, "keepalive timers to "+cluster, func() error {
				if running, all := keepaliveTimers(t, port); all == 0 || running < all {
					return fmt.Errorf("%d of %d connections", running, all)
				}
				return nil
			})
		}
	})
}
