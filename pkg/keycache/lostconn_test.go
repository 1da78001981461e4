package keycache_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/internal/lossyproxy"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keycache"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// emptyAPI is a key API without keys and changes.
type emptyAPI struct {
	lease    time.Duration
	slow     atomic.Bool  // resolves take long, so that each uses its own connection
	polls    atomic.Int64 // received
	protocol atomic.Value // of the last request
}

func (a *emptyAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.protocol.Store(r.Proto)
	answer := func(status int, body any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}
	if r.URL.Path == sidecarapi.ResolvePath {
		if a.slow.Load() {
			<-time.After(150 * time.Millisecond)
		}
		var req sidecarapi.ResolveRequest
		_ = json.NewDecoder(r.Body).Decode(&req)
		out := sidecarapi.ResolveResponse{Epoch: "one"}
		for _, d := range req.Credentials {
			out.Credentials = append(out.Credentials, sidecarapi.Credential{SHA256: d})
		}
		answer(200, out)
		return
	}
	var req sidecarapi.ChangesRequest
	_ = json.NewDecoder(r.Body).Decode(&req)
	a.polls.Add(1)
	if req.After < 0 {
		answer(410, sidecarapi.GoneResponse{Epoch: "one"})
		return
	}
	timer := time.NewTimer(time.Duration(req.WaitMS) * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		answer(200, sidecarapi.ChangesResponse{Epoch: "one", Changes: []sidecarapi.Change{}, LeaseMS: a.lease.Milliseconds()})
	case <-r.Context().Done():
	}
}

// lostConns is a cache whose connections to the key API can be lost.
type lostConns struct {
	t     *testing.T
	api   *emptyAPI
	proxy *lossyproxy.Proxy
	cache *keycache.Cache
	asked atomic.Int64
}

// connect starts a cache over http, https or unix. DeadAfter 0 is the default.
func connect(t *testing.T, scheme string, lease, deadAfter time.Duration) *lostConns {
	d := &lostConns{t: t, api: &emptyAPI{lease: lease}}
	server := httptest.NewUnstartedServer(d.api)
	o := sidecarapi.Options{Timeout: 400 * time.Millisecond, DeadAfter: deadAfter}
	if server.EnableHTTP2 = scheme == "https"; server.EnableHTTP2 {
		server.StartTLS()
	} else {
		server.Start()
	}
	// Cleanups run in reverse order: the proxy is closed first.
	t.Cleanup(server.Close)
	network, address := "tcp", "127.0.0.1:0"
	if scheme == "unix" {
		network, address = "unix", filepath.Join(t.TempDir(), "s")
	}
	proxy, err := lossyproxy.Listen(network, address, server.Listener.Addr(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	d.proxy = proxy
	switch at := d.proxy.Addr().String(); scheme {
	case "unix":
		o.URL = &url.URL{Scheme: "unix", Path: at}
	case "https":
		roots := x509.NewCertPool()
		roots.AddCert(server.Certificate())
		dialer := tls.Dialer{Config: &tls.Config{RootCAs: roots, NextProtos: []string{"h2", "http/1.1"}}}
		o.DialTLS = dialer.DialContext
		fallthrough
	default:
		o.URL = &url.URL{Scheme: scheme, Host: at}
	}
	client := sidecarapi.New(o)
	d.cache = keycache.New(client, keycache.Options{
		Name: func() string { return "s" }, Known: 100, Unknown: 1_000_000,
		Times:     keycache.Times{MaxAge: time.Hour, ConfirmAfter: time.Second},
		Admission: keycache.Admission{PerSecond: 1_000_000, Burst: 1_000_000},
		Log:       zap.NewNop(), Metrics: prometheus.NewRegistry(),
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = d.cache.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-ended
		d.cache.Close()
		client.Close()
	})
	<-d.cache.Answered()
	return d
}

// resolves reports whether a look-up of a new digest succeeds.
func (d *lostConns) resolves() bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, _, err := d.cache.Lookup(ctx, credential.NewSecret(fmt.Sprint(d.asked.Add(1))).Digest())
	return err == nil
}

// startLoad looks digests up until the test ends, over several connections.
func (d *lostConns) startLoad() {
	ctx, cancel := context.WithCancel(context.Background())
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for ctx.Err() == nil {
				d.resolves()
				<-time.After(10 * time.Millisecond)
			}
		})
	}
	d.t.Cleanup(func() { cancel(); workers.Wait() })
}

// timeUntil returns the time until the condition holds, or the limit.
func timeUntil(limit time.Duration, holds func() bool) time.Duration {
	began := time.Now()
	for !holds() && time.Since(began) < limit {
		<-time.After(5 * time.Millisecond)
	}
	return time.Since(began)
}

// slack allows for a loaded machine.
const slack = 1500 * time.Millisecond

// Connections that are lost without a sign are detected, and resolves and polls use new ones. The
// cases run concurrently, because the defaults need 6 s.
func TestLostConnectionsAreDetected(t *testing.T) {
	var running sync.WaitGroup
	for _, scheme := range []string{"http", "https", "unix"} {
		for _, load := range []bool{false, true} {
			for _, tt := range []struct {
				lease, deadAfter, within time.Duration
			}{
				{time.Second, 400 * time.Millisecond, 3 * time.Second},
				{15 * time.Second, 0, 6 * time.Second}, // the defaults
			} {
				name := fmt.Sprintf("%s, lease %s, under load: %t", scheme, tt.lease, load)
				d := connect(t, scheme, tt.lease, tt.deadAfter)
				d.openIdle(40)
				if got := d.api.protocol.Load(); (got == "HTTP/2.0") != (scheme == "https") {
					t.Fatalf("%s: the protocol is %v", name, got)
				}
				if load {
					d.startLoad()
				}
				d.proxy.LoseOpen()
				before := d.api.polls.Load()
				running.Go(func() {
					if took := timeUntil(2*tt.within, d.resolves); took > tt.within+slack {
						t.Errorf("%s: resolves after %s, want within %s", name, took, tt.within)
					}
				})
				running.Go(func() {
					polled := func() bool { return d.api.polls.Load() > before }
					if took := timeUntil(2*tt.within, polled); took > tt.within+slack {
						t.Errorf("%s: polls after %s, want within %s", name, took, tt.within)
					}
				})
			}
		}
	}
	running.Wait()
}

// openIdle leaves n idle connections by concurrent look-ups.
func (d *lostConns) openIdle(n int) {
	d.api.slow.Store(true)
	defer d.api.slow.Store(false)
	var burst sync.WaitGroup
	for range n {
		burst.Go(func() { d.resolves() })
		<-time.After(2 * time.Millisecond) // so that each has its own resolve
	}
	burst.Wait()
}
