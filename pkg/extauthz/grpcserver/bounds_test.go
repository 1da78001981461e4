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
)

// connect starts a server without sockets, for synctest, and returns a connection to it.
func connect(t *testing.T) net.Conn {
	t.Helper()
	ln := bufconn.Listen(1 << 16)
	start(t, ln, extauthz.NewChecker(newSource(), noUsage{}, &extauthz.Rules{}, extauthz.NewMetrics(prometheus.NewRegistry(), nil)), zap.NewNop())
	conn, err := ln.DialContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestServerAnnouncesBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := connect(t)
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

func TestSilentConnectionIsClosed(t *testing.T) {
	for name, sent := range map[string]string{
		"nothing": "", "half a preface": http2.ClientPreface[:5],
		"no answer to a ping": http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn := connect(t)
				began := time.Now()
				if _, err := io.WriteString(conn, sent); err != nil {
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

// A client without streams may ping every 10 s.
func TestPingsOfEnvoyAreAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := connect(t)
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
					t.Fatalf("GOAWAY: %s", frame.DebugData())
				case *http2.PingFrame:
					acked = frame.IsAck()
				}
			}
			<-time.After(10 * time.Second)
		}
	})
}

func TestLargeMetadataIsRejected(t *testing.T) {
	_, conn := serve(t, newSource(), zap.NewNop())
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x", strings.Repeat("x", 20<<10))
	if resp, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{}); err == nil || status.Code(err) == codes.OK {
		t.Errorf("answered %v", resp)
	}
	if _, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil {
		t.Errorf("the next call: %v", err)
	}
}
