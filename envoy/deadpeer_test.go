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
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/envoy"
	"github.com/phantomrouter/phantom-authz/internal/lossyproxy"
)

// startProxy runs a proxy until the test ends.
func startProxy(t *testing.T, to string) *lossyproxy.Proxy {
	t.Helper()
	address, err := net.ResolveTCPAddr("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := lossyproxy.Start(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	return proxy
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
			t.Errorf("Envoy %v: no recovery after %v", p.setup, within)
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
	forEachInParallel(t, func(t *testing.T, env *environment, s setup) {
		sidecar, _ := serveChecks(t, "tcp", "127.0.0.1:0", allowAll)
		w := startProxy(t, sidecar)
		p := env.ownEnvoy(t, s, envoy.Addresses{Authz: "tcp://" + w.Addr().String()})
		for range 20 { // each worker has its own connection
			p.do(t, request{path: companion})
		}
		w.LoseOpen()
		p.recovers(t, request{path: companion}, 6*time.Second)
	})
}

// TestCutConnectionToUpstream: over HTTP/2 many requests share a connection, which Envoy would use until TCP detects the
// failure.
func TestCutConnectionToUpstream(t *testing.T) {
	forEachInParallel(t, func(t *testing.T, env *environment, s setup) {
		w := startProxy(t, env.echo)
		p := env.ownEnvoy(t, s, envoy.Addresses{Upstream: "tcp://" + w.Addr().String()})
		r := request{path: companion, http2: true}.with(bearer(env.creds.Chat))
		for range 20 {
			p.do(t, r)
		}
		w.LoseOpen()
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
	forEachInParallel(t, func(t *testing.T, env *environment, s setup) {
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
		w := startProxy(t, keyd.Listener.Addr().String())
		p := env.ownEnvoy(t, s, envoy.Addresses{Owners: "tcp://" + w.Addr().String()}, func(config map[string]any) {
			owners := cluster(config, "owners")
			owners["typed_extension_protocol_options"] = options
			owners["transport_socket"] = map[string]any{"name": "envoy.transport_sockets.tls", "typed_config": map[string]any{
				"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
			}}
		})
		if got := p.do(t, owner(p, request{path: "/api/v1/me/keys"})); got.status != 200 {
			t.Fatalf("%d %s", got.status, got.body)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		var waiting sync.WaitGroup
		before := w.Forwarded()
		waiting.Go(func() {
			got, err := p.send(ctx, owner(p, request{path: "/api/v1/me/keys?wait_ms=60000"}))
			if err != nil || got.body != noKeyd.body() {
				t.Errorf("%d %s %v", got.status, got.body, err)
			}
		})
		eventually(t, "a request to keyd", func() error {
			if w.Forwarded() == before {
				return errors.New("none")
			}
			return nil
		})
		w.LoseOpen()
		waiting.Wait()
	})
}

// TestIdleConnectionsAreProbed: the kernel probes idle connections to the upstream and to keyd, and closes a broken one
// within 19 s.
func TestIdleConnectionsAreProbed(t *testing.T) {
	forEach(t, func(t *testing.T, env *environment, s setup) {
		for cluster, target := range map[string]string{"upstream": companion, "owners": "/api/v1/me/keys"} {
			peer := serve(t, "127.0.0.1:0", nil)
			p := env.ownEnvoy(t, s, envoy.Addresses{Owners: "tcp://" + peer.addr, Upstream: "tcp://" + peer.addr})
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
