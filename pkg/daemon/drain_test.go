package daemon

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

// connectAndSend makes connections to a listener and sends a request on each. Until they are accepted
// they wait in the kernel's backlog.
func connectAndSend(t *testing.T, addr net.Addr, many int) []net.Conn {
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

// readAnswer returns an error unless the answer on the connection is 200.
func readAnswer(conn net.Conn) error {
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

// TestStopAnswersBacklog: a stop answers the requests of connections that are not accepted yet.
func TestStopAnswersBacklog(t *testing.T) {
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
			waiting := connectAndSend(t, ln.Addr(), many)
			var handled atomic.Int32
			rt.ServeHTTP("operators", ln, nil, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { handled.Add(1) }))
			if err := rt.stop(time.Minute); err != nil {
				t.Error(err)
			}
			lost := 0
			for _, conn := range waiting {
				if err = readAnswer(conn); err != nil {
					lost++
				}
			}
			if lost > 0 || handled.Load() != many {
				t.Errorf("handled %d of %d requests, %d without an answer", handled.Load(), many, lost)
			}
			if conn, err := new(net.Dialer).DialContext(context.Background(), ln.Addr().Network(), ln.Addr().String()); err == nil {
				_ = conn.Close()
				t.Error("the listener still accepts")
			}
		})
	}
}

// TestDrainAfterTakeover: the old listener accepts the connections made before the takeover, and the
// successor keeps the path.
func TestDrainAfterTakeover(t *testing.T) {
	defer goleak.VerifyNone(t)
	path := filepath.Join(shortDir(t), "s")
	old := listenUnix(t, path)
	publish(t, old)
	waiting := connectAndSend(t, old.Addr(), 1)
	successor := listenUnix(t, path)
	publish(t, successor)
	if err := old.Drain(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	conn, err := old.Accept()
	if err != nil {
		t.Fatalf("the waiting connection is not accepted: %v", err)
	}
	_ = conn.Close()
	_ = waiting[0].Close()
	if conn, err := old.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the old listener accepts %v, %v", conn, err)
	}
	if err := old.Close(); err != nil {
		t.Error(err)
	}
	if got := acceptedBy(t, path, map[string]*Listener{"successor": successor}); got != "successor" {
		t.Errorf("accepted by %s", got)
	}
}

func TestDrainRemovesPath(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	l := listenUnix(t, path)
	publish(t, l)
	if err := l.Drain(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if got := names(t, filepath.Dir(path)); got != "" {
		t.Errorf("the folder has %q", got)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := l.Drain(time.Now().Add(time.Minute)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("drained a closed listener: %v", err)
	}
}

// TestDrainEnds: a drain ends although connections keep arriving.
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
		connectAndSend(t, l.Addr(), 1)
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

// TestStopLosesNoRequest: clients send POST requests on kept-alive connections while the server stops.
// net/http does not repeat these requests, so each must be answered until an answer has said that the
// connection ends. Only a client that pauses for as long as the drain may lose one. With Shutdown
// alone, about half of the clients lose one.
func TestStopLosesNoRequest(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			lost := 0
			for range 5 {
				lost += stopUnderLoad(t, network)
			}
			if lost > 5 {
				t.Errorf("%d of 100 clients lost a request", lost)
			}
		})
	}
}

var errSecondDial = errors.New("the server has closed the connection")

// stopUnderLoad returns how many of 20 clients lose a request.
func stopUnderLoad(t *testing.T, network string) int {
	t.Helper()
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
	rt.ServeHTTP("operators", ln, nil, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	var clients, connected sync.WaitGroup
	var lost atomic.Int32
	for range 20 {
		connected.Add(1)
		clients.Go(func() {
			dialed := false
			client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				if dialed {
					return nil, errSecondDial
				}
				dialed = true
				return new(net.Dialer).DialContext(ctx, network, ln.Addr().String())
			}}}
			for first := true; ; first = false {
				response, err := client.Post("http://x", "text/plain", strings.NewReader("x"))
				if err != nil {
					if !errors.Is(err, errSecondDial) {
						t.Log(err)
						lost.Add(1)
					}
					return
				}
				_ = response.Body.Close()
				if first {
					connected.Done()
				}
			}
		})
	}
	connected.Wait()
	close(rt.ready.draining)
	if err := rt.stop(time.Minute); err != nil {
		t.Error(err)
	}
	clients.Wait()
	return int(lost.Load())
}

// pipes is a listener for connections in a synctest bubble.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if conn, ok := <-p; ok {
		return conn, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error { close(p); return nil }
func (pipes) Addr() net.Addr { return &net.TCPAddr{} }

// TestStopWaitsForNewConnections: a request is answered that is incomplete when the stop begins, and one
// that stays incomplete delays the stop for a bounded time.
func TestStopWaitsForNewConnections(t *testing.T) {
	for name, arrives := range map[string]bool{"arrives": true, "never arrives": false} {
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
					if err := readAnswer(client); err != nil {
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

// TestDrainingEndsConnections: after the drain has begun, answers end their connections.
func TestDrainingEndsConnections(t *testing.T) {
	rt := newRuntime("thing", "info", io.Discard)
	server := newDrainingServer(rt.newHTTPServer("operators", http.NotFoundHandler()), nil, rt.Draining())
	for _, want := range []string{"", "close"} {
		w := httptest.NewRecorder()
		server.Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		if got := w.Header().Get("Connection"); got != want {
			t.Errorf("got Connection %q, want %q", got, want)
		}
		if want == "" {
			close(rt.ready.draining)
		}
	}
}
