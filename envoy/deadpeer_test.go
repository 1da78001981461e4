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

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"

	"github.com/phantomrouter/phantom-authz/envoy"
)

// wire is a TCP proxy whose open connections can be made dead: they stay open and carry nothing, as when a node or
// an entry of a NAT table is lost. Later connections work.
type wire struct {
	addr   string
	passed atomic.Int64 // bytes
	mu     sync.Mutex
	dead   chan struct{} // closed when the connections so far are dead
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{addr: listener.Addr().String(), dead: make(chan struct{})}
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
			dead := w.dead
			w.mu.Unlock()
			go w.pass(conn, peer, dead, ended)
			go w.pass(peer, conn, dead, ended)
		}
	}()
	return w
}

// pass copies until the connection is dead, and then keeps it open until the test ends.
func (w *wire) pass(to, from net.Conn, dead, ended chan struct{}) {
	defer func() { _ = to.Close() }()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		select {
		case <-dead:
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

// die makes the connections that are open dead.
func (w *wire) die() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.dead)
	w.dead = make(chan struct{})
}

// recovers makes a request each 500 ms, too few for a second connection, until one is answered with 200.
func (f *front) recovers(t *testing.T, r request, within time.Duration) {
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	answered := make(chan struct{})
	var once sync.Once
	var asked sync.WaitGroup
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-answered:
			cancel()
			asked.Wait()
			return
		case <-ctx.Done():
			asked.Wait()
			t.Errorf("Envoy %s: still a dead connection after %v", f.version, within)
			return
		case <-tick.C:
			asked.Go(func() {
				if got, err := f.send(ctx, r); err == nil && got.status == http.StatusOK {
					once.Do(func() { close(answered) })
				}
			})
		}
	}
}

// TestDeadConnectionToTheSidecar: over TCP a check's connection can be dead. TCP itself notices after 15 minutes.
func TestDeadConnectionToTheSidecar(t *testing.T) {
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	auth.RegisterAuthorizationServer(server, &sidecar{answer: allowAll})
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			w := newWire(t, listener.Addr().String())
			f := shared(t).ownEnvoy(t, version, envoy.Addresses{Authz: "tcp://" + w.addr})
			for range 20 { // each worker has a connection of its own
				f.ask(t, request{path: companion})
			}
			w.die()
			f.recovers(t, request{path: companion}, 6*time.Second)
		})
	}
}

// TestDeadConnectionToTheUpstream: over HTTP/2 many requests share a connection, and it would be used until TCP
// notices.
func TestDeadConnectionToTheUpstream(t *testing.T) {
	t.Parallel()
	w := shared(t)
	var tested sync.WaitGroup
	for _, version := range versions() {
		wire := newWire(t, w.echo)
		f := w.ownEnvoy(t, version, envoy.Addresses{Upstream: "tcp://" + wire.addr})
		r := request{path: companion, http2: true}.with(bearer(w.held.chat))
		for range 20 {
			f.ask(t, r)
		}
		wire.die()
		tested.Go(func() { f.recovers(t, r, 30*time.Second) })
	}
	tested.Wait()
}

// TestDeadConnectionToKeydOverTLS takes the protocol options of the cluster owners in k8s/base: a request that waits
// ends long before its own timeout, 75 s.
func TestDeadConnectionToKeydOverTLS(t *testing.T) {
	t.Parallel()
	deployed, err := os.ReadFile("../k8s/base/config/envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	options := cluster(decode(t, deployed), "owners")["typed_extension_protocol_options"]
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
	w := shared(t)
	var tested sync.WaitGroup
	for _, version := range versions() {
		wire := newWire(t, keyd.Listener.Addr().String())
		f := w.ownEnvoy(t, version, envoy.Addresses{Owners: "tcp://" + wire.addr}, func(config map[string]any) {
			owners := cluster(config, "owners")
			owners["typed_extension_protocol_options"] = options
			owners["transport_socket"] = map[string]any{"name": "envoy.transport_sockets.tls", "typed_config": map[string]any{
				"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
			}}
		})
		if got := f.ask(t, owner(f, request{path: "/api/v1/me/keys"})); got.status != 200 {
			t.Fatalf("%d %s", got.status, got.body)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		waiting := func() {
			got, err := f.send(ctx, owner(f, request{path: "/api/v1/me/keys?wait_ms=60000"}))
			if err != nil || got.body != noKeyd.body() {
				t.Errorf("Envoy %s: %d %s %v", version, got.status, got.body, err)
			}
		}
		before := wire.passed.Load()
		tested.Go(waiting)
		eventually(t, "the request has gone to keyd", func() error {
			if wire.passed.Load() == before {
				return errors.New("not yet")
			}
			return nil
		})
		wire.die()
	}
	tested.Wait()
}

// TestIdleConnectionsAreProbed: the kernel probes an idle connection to the upstream and to keyd, so that a dead one
// is closed within 19 s.
func TestIdleConnectionsAreProbed(t *testing.T) {
	for _, version := range versions() {
		for cluster, target := range map[string]string{"upstream": companion, "owners": "/api/v1/me/keys"} {
			t.Run(version+" "+cluster, func(t *testing.T) {
				peer := serve(t, "127.0.0.1:0", nil)
				f := shared(t).ownEnvoy(t, version, envoy.Addresses{Owners: "tcp://" + peer.addr, Upstream: "tcp://" + peer.addr})
				f.ask(t, owner(f, request{path: target}))
				_, text, _ := strings.Cut(peer.addr, ":")
				port, err := strconv.Atoi(text)
				if err != nil {
					t.Fatal(err)
				}
				eventually(t, "the keepalive timer runs", func() error {
					if running, all := keepaliveTimers(t, port); all == 0 || running < all {
						return fmt.Errorf("for %d of %d connections", running, all)
					}
					return nil
				})
			})
		}
	}
}
