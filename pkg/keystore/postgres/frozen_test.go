package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/phantomrouter/phantom-authz/internal/lossyproxy"
	"github.com/phantomrouter/phantom-authz/internal/pgtest"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/postgres"
)

// viaProxy is a store whose connections can be frozen.
func viaProxy(t *testing.T) (*postgres.Store, *lossyproxy.Proxy) {
	t.Helper()
	proxy, err := lossyproxy.Start(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: server.Port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	name, err := server.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	url := strings.Replace(server.LoopbackURL(name), fmt.Sprint(":", server.Port), fmt.Sprint(":", proxy.Addr().(*net.TCPAddr).Port), 1)
	s, err := postgres.Open(t.Context(), url, postgres.Options{Password: func() credential.Secret { return credential.NewSecret(pgtest.Password) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mustClose(t, s) })
	if _, err := s.CreateAccount(t.Context(), "operator:test", "acc", "name"); err != nil {
		t.Fatal(err)
	}
	return s, proxy
}

// recovery is how long a dead connection may delay calls.
const recovery = 6 * time.Second

// Connections that are dead without an error are replaced soon. The cases run together, because each waits for silence.
func TestDeadConnections(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"idle": testDeadIdleConnections, "busy": testDeadBusyConnections, "under load": testDeadConnectionsUnderLoad,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

// Idle connections are dead without an error: reads, changes and polls are answered soon.
func testDeadIdleConnections(t *testing.T) {
	s, proxy := viaProxy(t)
	fillPool(t, s)
	<-time.After(1200 * time.Millisecond) // longer than a connection is used without a ping
	made := proxy.Accepted()
	proxy.LoseOpen()
	began := time.Now()
	for what, call := range calls(s) {
		if err := call(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if took := time.Since(began); took > recovery/2 {
		t.Errorf("answered after %s", took)
	}
	if proxy.Accepted() == made {
		t.Error("no connection was made: none was frozen?")
	}
}

// Connections that were just used are not pinged. They are dead when no answer arrives.
func testDeadBusyConnections(t *testing.T) {
	s, proxy := viaProxy(t)
	fillPool(t, s)
	proxy.LoseOpen()
	began := time.Now()
	var g errgroup.Group
	for what, call := range calls(s) {
		g.Go(func() error {
			if err := call(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if took := time.Since(began); took > recovery {
				t.Errorf("%s: answered after %s", what, took)
			}
			return nil
		})
	}
	_ = g.Wait() // the calls report their errors
}

// Under load, calls in flight may fail, and later ones succeed.
func testDeadConnectionsUnderLoad(t *testing.T) {
	s, proxy := viaProxy(t)
	l := begin(s)
	for range 2 {
		l.waitFor(t, 100)
		proxy.LoseOpen()
		began := time.Now()
		l.waitFor(t, 20)
		if err := recovered(s, began.Add(recovery)); err != nil {
			t.Error(err)
		}
		t.Logf("after %s", time.Since(began))
	}
	l.stop.Store(true)
	if err := l.work.Wait(); err != nil {
		t.Error(err)
	}
}

// recovered repeats all calls until they succeed or the time is over.
func recovered(s *postgres.Store, until time.Time) error {
	for what, call := range calls(s) {
		for {
			err := call()
			if err == nil && time.Now().Before(until) {
				break
			}
			if !time.Now().Before(until) {
				return errors.Join(fmt.Errorf("%s: not in time", what), err)
			}
		}
	}
	return nil
}

// calls are one of each kind.
func calls(s *postgres.Store) map[string]func() error {
	limited := func(do func(ctx context.Context) error) func() error {
		return func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			return do(ctx)
		}
	}
	return map[string]func() error{
		"head":     limited(func(ctx context.Context) error { return s.Ping(ctx) }),
		"resolve":  limited(func(ctx context.Context) error { _, _, err := s.Resolve(ctx, []credential.Digest{{}}); return err }),
		"account":  limited(func(ctx context.Context) error { _, err := s.Account(ctx, "acc"); return err }),
		"accounts": limited(func(ctx context.Context) error { _, _, err := s.Accounts(ctx, keystore.Page{Limit: 1}); return err }),
		"mint": limited(func(ctx context.Context) error {
			_, err := mint(ctx, s, "key_"+credential.RandomBase62(12))
			return err
		}),
		"poll": limited(func(ctx context.Context) error {
			p := keystore.Poll{Sidecar: "s", Number: lastPoll.Add(1), Leave: true, Lease: time.Minute}
			_, _, err := s.RecordPoll(ctx, p)
			return err
		}),
	}
}

// fillPool uses each connection of the pool.
func fillPool(t *testing.T, s *postgres.Store) {
	t.Helper()
	var g errgroup.Group
	for range 10 {
		g.Go(func() error { return s.Busy(t.Context(), 50*time.Millisecond) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

// The kernel ends connections to a machine that is lost.
func TestSocketOptions(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	conn, err := postgres.Dial(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	want := map[int]int{unix.TCP_USER_TIMEOUT: 4000, unix.TCP_KEEPIDLE: 2, unix.TCP_KEEPINTVL: 1, unix.TCP_KEEPCNT: 3}
	err = raw.Control(func(fd uintptr) {
		for option, value := range want {
			if got, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option); err != nil || got != value {
				t.Errorf("option %d is %d, want %d: %v", option, got, value, err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}
