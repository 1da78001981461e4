package envoy_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/coder/websocket"

	"github.com/phantomrouter/phantom-authz/envoy"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// awaitLookUps waits until the key API has received more look-ups than before.
func (k *keyAPI) awaitLookUps(t *testing.T, before int64) {
	t.Helper()
	eventually(t, "a look-up", func() error {
		if k.lookUps.Load() == before {
			return errors.New("none")
		}
		return nil
	})
}

// stat returns a counter or gauge of Envoy.
func (p *proxy) stat(t *testing.T, name string) int {
	t.Helper()
	var page struct {
		Stats []struct {
			Name  string
			Value int
		}
	}
	if err := json.Unmarshal(p.adminPage(t, "/stats?format=json&filter=^"+name+"$"), &page); err != nil {
		t.Fatal(err)
	}
	for _, stat := range page.Stats {
		if stat.Name == name {
			return stat.Value
		}
	}
	t.Fatalf("no statistic %s", name)
	return 0
}

// zeros is an endless body that counts its bytes.
type zeros struct {
	left int64
	sent atomic.Int64
}

func (z *zeros) Read(p []byte) (int, error) {
	n := min(int64(len(p)), z.left-z.sent.Load())
	if n == 0 {
		return 0, io.EOF
	}
	clear(p[:n])
	z.sent.Add(n)
	return int(n), nil
}

// TestUploadWaitsForLookUp: an upload that is much larger than the buffer limit is neither rejected nor read while its
// check waits, and arrives completely afterwards.
func TestUploadWaitsForLookUp(t *testing.T) {
	const (
		size  = 32 << 20
		limit = 1 << 20 // for all connections of a test; the buffer limit is 64 KiB
	)
	forEach(t, func(t *testing.T, env *environment, s setup) {
		received := make(chan int64, 1)
		upstream := serve(t, "127.0.0.1:0", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			n, _ := io.Copy(io.Discard, r.Body)
			received <- n
		}))
		for _, transport := range []*http.Transport{{}, http2Only} {
			k := env.slowKeyAPI(t)
			p := env.withKeyAPI(t, s, k, envoy.Addresses{Upstream: "tcp://" + upstream.addr})
			k.hold()
			body := &zeros{left: size}
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+p.addr+"/api/v1/chat", io.NopCloser(body))
			if err != nil {
				t.Fatal(err)
			}
			request.ContentLength = size
			request.Header.Set("Authorization", "Bearer "+env.creds.Chat)
			answered := make(chan int, 1)
			go func() {
				response, err := transport.RoundTrip(request)
				if err != nil {
					t.Error(err)
					answered <- 0
					return
				}
				_ = response.Body.Close()
				answered <- response.StatusCode
			}()
			k.awaitLookUps(t, 0)
			// The client sends until no buffer has space left.
			var before int64
			eventually(t, "the upload pauses", func() error {
				now := body.sent.Load()
				if now == 0 || now != before {
					before = now
					return errors.New("it does not")
				}
				return nil
			})
			if read := p.stat(t, "http.public.downstream_cx_rx_bytes_total"); read > limit {
				t.Errorf("Envoy has read %d bytes while the check waits", read)
			}
			k.release()
			if status := <-answered; status != 200 {
				t.Fatalf("status %d", status)
			}
			if n := <-received; n != size {
				t.Errorf("%d of %d bytes arrived", n, size)
			}
		}
	})
}

// TestTrailersAndUpgradesWaitForLookUp: what follows the headers arrives after the look-up.
func TestTrailersAndUpgradesWaitForLookUp(t *testing.T) {
	forEach(t, func(t *testing.T, env *environment, s setup) {
		trailers := make(chan http.Header, 1)
		upstream := serve(t, "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") != "" {
				if conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}); err == nil {
					_ = conn.Close(websocket.StatusNormalClosure, r.Header.Get("X-Phantom-Account-Id"))
				}
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			trailers <- r.Trailer.Clone()
		}))
		k := env.slowKeyAPI(t)
		p := env.withKeyAPI(t, s, k, envoy.Addresses{Upstream: "tcp://" + upstream.addr})
		k.hold()
		var waiting sync.WaitGroup
		waiting.Go(func() {
			p.sendTrailers(t, true, bearer(env.creds.Chat), http.Header{"X-Phantom-Scopes": {"admin"}, "X-Other": {"1"}})
		})
		waiting.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			conn, _, err := websocket.Dial(ctx, "ws://"+p.addr+"/api/v1/chat/live", &websocket.DialOptions{
				HTTPHeader: http.Header{"Authorization": {"Bearer " + env.creds.Chat}},
			})
			if err != nil {
				t.Error(err)
				return
			}
			var closed websocket.CloseError
			if _, _, err := conn.Read(ctx); !errors.As(err, &closed) || closed.Reason != env.creds.Account {
				t.Errorf("WebSocket: %v, want its account as the reason", err)
			}
		})
		eventually(t, "both wait", func() error {
			if active := p.stat(t, "http.public.downstream_rq_active"); active != 2 || k.lookUps.Load() == 0 {
				return fmt.Errorf("%d requests", active)
			}
			return nil
		})
		k.release()
		waiting.Wait()
		if got := <-trailers; got.Get("X-Other") != "1" || len(got["X-Phantom-Scopes"]) > 0 {
			t.Errorf("trailers %v", got)
		}
	})
}

// waitingClients opens connections with a request each, whose look-ups are held, and returns a function that closes them.
func (p *proxy) waitingClients(t *testing.T, n int) (leave func()) {
	t.Helper()
	var all []net.Conn
	for range n {
		conn, err := net.Dial("tcp", p.addr)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, conn)
		_, err = fmt.Fprintf(conn, "POST /api/v1/chat HTTP/1.1\r\nHost: api.example\r\nContent-Length: 100\r\n%s\r\n\r\nbody",
			bearer(p.env.UnknownKey().Reveal()))
		if err != nil {
			t.Fatal(err)
		}
	}
	leave = func() {
		for _, conn := range all {
			_ = conn.Close()
		}
	}
	t.Cleanup(leave)
	eventually(t, "all requests wait", func() error {
		if active := p.stat(t, "http.public.downstream_rq_active"); active != n {
			return fmt.Errorf("%d of %d", active, n)
		}
		return nil
	})
	return leave
}

// TestClientsThatLeaveCostNothing: the goroutines of their look-ups end.
func TestClientsThatLeaveCostNothing(t *testing.T) {
	const clients = 30
	forEach(t, func(t *testing.T, env *environment, s setup) {
		k := env.slowKeyAPI(t)
		p := env.withKeyAPI(t, s, k, envoy.Addresses{})
		p.expectAllowed(t)
		waiting := func() int {
			text, err := testbed.Get(t.Context(), p.checks.Admin()+"/debug/pprof/goroutine?debug=2")
			if err != nil {
				t.Fatal(err)
			}
			return bytes.Count(text, []byte("extauthz.(*Outcome).Finish("))
		}
		k.hold()
		leave := p.waitingClients(t, clients)
		eventually(t, "all look-ups wait", func() error {
			if n := waiting(); n != clients {
				return fmt.Errorf("%d of %d", n, clients)
			}
			return nil
		})
		p.expectAllowed(t) // from the cache
		leave()
		eventually(t, "the streams end", func() error {
			if active := p.stat(t, "http.public.downstream_rq_active"); active != 0 {
				return fmt.Errorf("%d are active", active)
			}
			return nil
		})
		eventually(t, "the look-ups end", func() error { // although the key API does not answer
			if n := waiting(); n != 0 {
				return fmt.Errorf("%d wait", n)
			}
			return nil
		})
		k.release()
		p.expectAllowed(t)
	})
}

// TestEnvoyStopsWhileStreamsWait: it exits without a crash, and the module deregisters from the key API.
func TestEnvoyStopsWhileStreamsWait(t *testing.T) {
	forEach(t, func(t *testing.T, env *environment, s setup) {
		k := env.slowKeyAPI(t)
		p := env.withKeyAPI(t, s, k, envoy.Addresses{})
		p.expectAllowed(t)
		k.hold()
		p.waitingClients(t, 20)
		if _, err := http.Post("http://"+p.admin+"/drain_listeners?graceful", "", nil); err != nil {
			t.Fatal(err)
		}
		if code, err := p.Stop(syscall.SIGTERM); code != 0 || err != nil {
			t.Errorf("exit code %d, %v:\n%s", code, err, p.Output())
		}
		if n := k.deregisters.Load(); s.front == module && n != 1 {
			t.Errorf("%d deregistrations", n)
		}
	})
}

// TestConnectIsRefused: no route matches it. Envoy does not call ext_authz then, but it calls the module.
func TestConnectIsRefused(t *testing.T) {
	onEach(t, func(t *testing.T, p *proxy) {
		for _, target := range []string{"api.example:443", "api.example:80", "127.0.0.1:22"} {
			conn, err := net.Dial("tcp", p.addr)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n%s\r\n\r\n", target, target, bearer(p.env.creds.Chat))
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			_ = conn.Close()
			want := map[front]int{authzd: http.StatusNotFound, module: noPolicy.status}[p.front]
			if err != nil || response.StatusCode != want {
				t.Errorf("%s: %v %v, want %d", target, response, err, want)
			}
		}
	})
}
