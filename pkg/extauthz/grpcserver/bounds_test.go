package grpcserver_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz/grpcserver"
)

// listen serves a front by the clock of a synctest bubble and returns a way to connect.
func listen(t *testing.T) (dial func() net.Conn, stop func()) {
	t.Helper()
	front := grpcserver.New(extauthz.NewChecker(newSource(), nobody{}, &extauthz.Rules{}, extauthz.NewMetrics(prometheus.NewRegistry())), zap.NewNop())
	ln := bufconn.Listen(1 << 16)
	served := make(chan error, 1)
	go func() { served <- front.Serve(ln) }()
	dial = func() net.Conn {
		conn, err := ln.DialContext(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	return dial, func() {
		front.Stop(t.Context())
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
}

// TestSettings: the server tells its clients the bounds of a connection.
func TestSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, stop := listen(t)
		defer stop()
		conn := dial()
		defer func() { _ = conn.Close() }()
		if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
			t.Fatal(err)
		}
		framer := http2.NewFramer(conn, conn)
		if err := framer.WriteSettings(); err != nil {
			t.Fatal(err)
		}
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		settings, ok := frame.(*http2.SettingsFrame)
		if !ok {
			t.Fatalf("the first frame is %v", frame)
		}
		for id, most := range map[http2.SettingID]uint32{
			http2.SettingMaxConcurrentStreams: 8192, http2.SettingMaxHeaderListSize: 16 << 10,
		} {
			if got, ok := settings.Value(id); !ok || got != most {
				t.Errorf("%v is %d, %v, want %d", id, got, ok, most)
			}
		}
	})
}

// TestConnectionThatNeverSpeaks is closed, and so is one whose client is gone.
func TestConnectionThatNeverSpeaks(t *testing.T) {
	for name, said := range map[string]string{
		"nothing": "", "half a preface": http2.ClientPreface[:5],
		"no answer to a ping": http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dial, stop := listen(t)
				defer stop()
				conn := dial()
				defer func() { _ = conn.Close() }()
				began := time.Now()
				if _, err := io.WriteString(conn, said); err != nil {
					t.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, io.ErrClosedPipe) {
					t.Error(err)
				}
				if took := time.Since(began); took > 90*time.Second {
					t.Errorf("closed after %v", took)
				}
			})
		})
	}
}

// TestPingsOfEnvoy: a client that pings every 10 s and has no stream is not sent away.
func TestPingsOfEnvoy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, stop := listen(t)
		defer stop()
		conn := dial()
		defer func() { _ = conn.Close() }()
		framer := http2.NewFramer(conn, conn)
		if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
			t.Fatal(err)
		}
		if err := framer.WriteSettings(); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if err := framer.WritePing(false, [8]byte{1}); err != nil {
				t.Fatal(err)
			}
			for acked := false; !acked; {
				frame, err := framer.ReadFrame()
				if err != nil {
					t.Fatal(err)
				}
				switch frame := frame.(type) {
				case *http2.GoAwayFrame:
					t.Fatalf("sent away: %s", frame.DebugData())
				case *http2.PingFrame:
					acked = frame.IsAck()
				}
			}
			<-time.After(10 * time.Second)
		}
	})
}

// TestMetadataTooLarge: a call with more metadata than any proxy sends is refused before it is read.
func TestMetadataTooLarge(t *testing.T) {
	_, conn := serve(t, newSource(), zap.NewNop())
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x", strings.Repeat("x", 20<<10))
	if resp, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{}); err == nil || status.Code(err) == codes.OK {
		t.Errorf("answered %v", resp)
	}
	if _, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil {
		t.Errorf("the next call: %v", err)
	}
}
