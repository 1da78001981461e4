package lossyproxy_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/phantomrouter/phantom-authz/internal/lossyproxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestLostConnectionsStayOpen: a lost connection carries nothing and stays open; a new one works.
func TestLostConnectionsStayOpen(t *testing.T) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = echo.Close() }()
	go func() {
		for {
			conn, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn); _ = conn.Close() }()
		}
	}()
	proxy, err := lossyproxy.Start(echo.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	connect := func() net.Conn {
		conn, err := net.Dial("tcp", proxy.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	exchange := func(conn net.Conn, deadline time.Duration) error {
		_ = conn.SetDeadline(time.Now().Add(deadline))
		_, err := conn.Write([]byte("ping\n"))
		if err == nil {
			_, err = bufio.NewReader(conn).ReadString('\n')
		}
		return err
	}
	first := connect()
	if err := exchange(first, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if lost := proxy.LoseOpen(); lost != 1 {
		t.Errorf("%d connections lost, want 1", lost)
	}
	if err := exchange(first, 50*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("lost connection: %v, want a timeout", err)
	}
	if err := exchange(connect(), 5*time.Second); err != nil {
		t.Errorf("new connection: %v", err)
	}
	if proxy.Accepted() != 2 || proxy.Forwarded() != 20 {
		t.Errorf("%d connections, %d bytes, want 2 and 20", proxy.Accepted(), proxy.Forwarded())
	}
}
