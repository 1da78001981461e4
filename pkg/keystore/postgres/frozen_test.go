package postgres_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/phantomrouter/phantom-authz/internal/pgtest"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/postgres"
)

// overRoad is a store whose connections can be frozen.
func overRoad(t *testing.T) (*postgres.Store, *pgtest.Road) {
	t.Helper()
	road, err := server.Road(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(road.Close)
	name, err := server.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	url := strings.Replace(server.LoopbackURL(name), fmt.Sprint(":", server.Port), fmt.Sprint(":", road.Port()), 1)
	s, err := postgres.Open(t.Context(), url, postgres.Options{Password: func() credential.Secret { return credential.NewSecret(pgtest.Password) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mustClose(t, s) })
	if _, err := s.CreateAccount(t.Context(), "operator:test", "acc", "name"); err != nil {
		t.Fatal(err)
	}
	return s, road
}

// recovery is how long a dead connection may hold up those who can make a new one.
const recovery = 6 * time.Second

// Idle connections die without a sign: reads, changes and polls are answered again at once.
func TestDeadIdleConnections(t *testing.T) {
	s, road := overRoad(t)
	fillPool(t, s)
	<-time.After(1200 * time.Millisecond) // longer than a connection is taken for good without a ping
	made := road.Made()
	road.Freeze()
	began := time.Now()
	for what, call := range calls(s) {
		if err := call(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if took := time.Since(began); took > recovery/2 {
		t.Errorf("answered after %s", took)
	}
	if road.Made() == made {
		t.Error("no connection was made: none was frozen?")
	}
}

// Connections that were just used are not pinged: they are found dead when no answer comes.
func TestDeadBusyConnections(t *testing.T) {
	s, road := overRoad(t)
	fillPool(t, s)
	road.Freeze()
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
	_ = g.Wait() // they report by themselves
}

// Under load all that were under way may fail, and everything goes on.
func TestDeadConnectionsUnderLoad(t *testing.T) {
	s, road := overRoad(t)
	l := begin(s)
	for range 2 {
		l.goOn(t, 100)
		road.Freeze()
		began := time.Now()
		l.goOn(t, 20)
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

// recovered tries all calls until they succeed or the time is up.
func recovered(s *postgres.Store, until time.Time) error {
	for what, call := range calls(s) {
		for {
			err := call()
			if err == nil && time.Now().Before(until) {
				break
			}
			if !time.Now().Before(until) {
				return fmt.Errorf("%s: not in time: %w", what, err)
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
			p := keystore.Poll{Sidecar: "s", Number: polls.Add(1), Leave: true, Lease: time.Minute}
			_, _, err := s.RecordPoll(ctx, p)
			return err
		}),
	}
}

// fillPool has each connection of the pool used at this moment.
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

// The kernel looks after connections as well: it ends those to a machine that is lost.
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
