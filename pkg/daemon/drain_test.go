package daemon

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

// waiters connect to a listener and send a request each. While nothing accepts they sit
// in the kernel's backlog, and may well think that they have arrived.
func waiters(t *testing.T, addr net.Addr, many int) []net.Conn {
	t.Helper()
	var all []net.Conn
	for range many {
		conn, err := new(net.Dialer).DialContext(t.Context(), addr.Network(), addr.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		all = append(all, conn)
	}
	return all
}

func answered(conn net.Conn) error {
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	if err := response.Body.Close(); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}

// A stop answers everybody who had connected, though nobody had accepted him yet.
func TestStopAnswersTheBacklog(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			defer goleak.VerifyNone(t)
			rt := newRuntime("thing", "info", io.Discard)
			var addr net.Addr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
			if network == "unix" {
				addr = unixAddr(filepath.Join(shortDir(t), "s"))
			}
			ln, err := rt.Listen("listen.operators", addr)
			if err != nil {
				t.Fatal(err)
			}
			publish(t, ln)
			const many = 100
			waiting := waiters(t, ln.Addr(), many)
			var handled atomic.Int32
			rt.ServeHTTP("operators", ln, nil, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { handled.Add(1) }))
			if err := rt.stop(time.Minute); err != nil {
				t.Error(err)
			}
			lost := 0
			for _, conn := range waiting {
				if err = answered(conn); err != nil {
					lost++
				}
			}
			if lost > 0 || handled.Load() != many {
				t.Errorf("%d of %d were handled, %d had no answer", handled.Load(), many, lost)
			}
			if conn, err := new(net.Dialer).DialContext(context.Background(), ln.Addr().Network(), ln.Addr().String()); err == nil {
				_ = conn.Close()
				t.Error("somebody still listens")
			}
		})
	}
}

// Who came before the takeover is answered by the old one, and the name stays the
// successor's.
func TestDrainAfterTakeover(t *testing.T) {
	defer goleak.VerifyNone(t)
	path := filepath.Join(shortDir(t), "s")
	old := listenUnix(t, path)
	publish(t, old)
	waiting := waiters(t, old.Addr(), 1)
	successor := listenUnix(t, path)
	publish(t, successor)
	if err := old.Drain(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	conn, err := old.Accept()
	if err != nil {
		t.Fatalf("who waited is not let in: %v", err)
	}
	_ = conn.Close()
	_ = waiting[0].Close()
	if conn, err := old.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the old one accepts %v, %v", conn, err)
	}
	if err := old.Close(); err != nil {
		t.Error(err)
	}
	if got := whoAnswers(t, path, map[string]*Listener{"successor": successor}); got != "successor" {
		t.Errorf("%s answers", got)
	}
}

// From the drain on nobody can come any more, while those who wait are let in.
func TestDrainTakesTheName(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	l := listenUnix(t, path)
	publish(t, l)
	if err := l.Drain(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if got := names(t, filepath.Dir(path)); got != "" {
		t.Errorf("the folder holds %q", got)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := l.Drain(time.Now().Add(time.Minute)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed listener is drained: %v", err)
	}
}

// Where more and more come, the drain ends all the same.
func TestDrainEnds(t *testing.T) {
	defer goleak.VerifyNone(t)
	l, err := Listen(t.Context(), "listen.operators", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if err := l.Drain(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	for {
		waiters(t, l.Addr(), 1)
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
	}
}

// pipes is a listener for connections within a bubble.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if conn, ok := <-p; ok {
		return conn, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error { close(p); return nil }
func (pipes) Addr() net.Addr { return &net.TCPAddr{} }

// A request that is on its way when the stop begins is answered; one that never comes
// holds nothing up for long.
func TestStopWaitsForArrivals(t *testing.T) {
	for name, arrives := range map[string]bool{"arrives": true, "never comes": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rt := newRuntime("thing", "info", io.Discard)
				ln := make(pipes)
				rt.ServeHTTP("operators", &Listener{Listener: ln, published: true}, nil, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
				client, server := net.Pipe()
				ln <- server
				request := "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
				_, _ = io.WriteString(client, request[:10])
				synctest.Wait()
				began, stopped := time.Now(), make(chan error, 1)
				go func() { stopped <- rt.stop(time.Minute) }()
				synctest.Wait()
				if arrives {
					_, _ = io.WriteString(client, request[10:])
					if err := answered(client); err != nil {
						t.Error(err)
					}
				}
				if err := <-stopped; err != nil {
					t.Error(err)
				}
				if took := time.Since(began); arrives && took > time.Second || took > 10*time.Second {
					t.Errorf("the stop took %v", took)
				}
				_ = client.Close()
			})
		})
	}
}

// A request may have come in on a connection that still counts as idle.
func TestIdleConnectionsMayHaveRequests(t *testing.T) {
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"plain": func(c net.Conn) net.Conn { return c },
		"TLS":   func(c net.Conn) net.Conn { return tls.Server(c, nil) },
	} {
		l := listenUnix(t, filepath.Join(shortDir(t), "s"))
		publish(t, l)
		client, err := new(net.Dialer).DialContext(t.Context(), "unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		a := arrivingOf(new(http.Server), nil)
		conn := wrap(accepted)
		a.set(conn, http.StateIdle)
		if !a.none() {
			t.Errorf("%s: a connection that stands idle is waited for", name)
		}
		if _, err := io.WriteString(client, "G"); err != nil {
			t.Fatal(err)
		}
		if a.none() {
			t.Errorf("%s: a request that has come in is not waited for", name)
		}
		a.set(conn, arrived)
		if !a.none() {
			t.Errorf("%s: a request that has arrived is waited for", name)
		}
		_ = errors.Join(client.Close(), accepted.Close())
	}
}

// From the drain on answers end their connections.
func TestDrainingEndsConnections(t *testing.T) {
	rt := newRuntime("thing", "info", io.Discard)
	server := rt.newHTTPServer("operators", http.NotFoundHandler())
	arrivingOf(server, rt.Draining())
	for _, want := range []string{"", "close"} {
		w := httptest.NewRecorder()
		server.Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		if got := w.Header().Get("Connection"); got != want {
			t.Errorf("Connection: %q, want %q", got, want)
		}
		if want == "" {
			close(rt.ready.draining)
		}
	}
}
