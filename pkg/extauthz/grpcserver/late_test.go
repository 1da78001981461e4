package grpcserver_test

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz/grpcserver"
)

// frozen is a Source that takes its time and heeds no context, as if the process had been
// stopped in the middle of a check.
type frozen struct {
	*source
	lasts time.Duration
}

func (f frozen) Lookup(ctx context.Context, d credential.Digest) (credential.Record, bool, error) {
	<-time.After(f.lasts)
	return f.source.Lookup(ctx, d)
}

// serveBuffered is serve without sockets, so that it runs by the clock of a synctest bubble.
func serveBuffered(t *testing.T, src extauthz.Source, rules *extauthz.Rules, reg *prometheus.Registry) (conn *grpc.ClientConn, stop func()) {
	t.Helper()
	front := grpcserver.New(extauthz.NewChecker(src, nobody{}, rules, extauthz.NewMetrics(reg)), zap.NewNop())
	ln := bufconn.Listen(1 << 16)
	served := make(chan error, 1)
	go func() { served <- front.Serve(ln) }()
	conn, err := grpc.NewClient("passthrough:buffer", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return ln.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	return conn, func() {
		_ = conn.Close()
		front.Stop(context.Background())
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
}

// TestFrozenCheckIsNoAllow: a caller that waits long gets 503, not an allow that rests on facts
// of before the process was frozen.
func TestFrozenCheckIsNoAllow(t *testing.T) {
	for _, tt := range []struct {
		name           string
		lasts, timeout time.Duration
		shadow         bool
		reason         string
	}{
		{"in time", 990 * time.Millisecond, 0, false, "ok"},
		{"late", 1010 * time.Millisecond, 0, false, "unavailable"},
		{"an hour", time.Hour, 0, false, "unavailable"},
		{"in time by the key API's timeout", 5990 * time.Millisecond, 3 * time.Second, false, "ok"},
		{"late by the key API's timeout", 6010 * time.Millisecond, 3 * time.Second, false, "unavailable"},
		{"late in shadow mode", time.Hour, 0, true, "unavailable"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reg := prometheus.NewRegistry()
				conn, stop := serveBuffered(t, frozen{newSource(), tt.lasts}, &extauthz.Rules{KeyAPITimeout: tt.timeout, Shadow: tt.shadow}, reg)
				defer stop()
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
				defer cancel()
				resp, err := authv3.NewAuthorizationClient(conn).Check(ctx, message(map[string]string{"scope": ""}, raw("authorization", "Bearer "+key.Reveal())))
				if err != nil {
					t.Fatal(err)
				}
				allowed := tt.reason == "ok" || tt.shadow
				if got := resp.GetDynamicMetadata().GetFields()["reason"].GetStringValue(); got != tt.reason || (resp.GetStatus().GetCode() == 0) != allowed {
					t.Errorf("%v", resp)
				}
				if !allowed && (resp.GetDeniedResponse().GetStatus().GetCode() != 503 || value(t, reg, "phantom_authz_late_answers_total") != 1) {
					t.Errorf("%v", resp)
				}
			})
		})
	}
}

// TestArrivalIsBeforeTheMessage: time that passes between the headers of a check and its message
// counts.
func TestArrivalIsBeforeTheMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, stop := serveBuffered(t, newSource(), &extauthz.Rules{}, prometheus.NewRegistry())
		defer stop()
		stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true}, authv3.Authorization_Check_FullMethodName)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the headers are there
		<-time.After(1100 * time.Millisecond)
		resp := new(authv3.CheckResponse)
		if err := stream.SendMsg(message(map[string]string{"scope": ""}, raw("authorization", "Bearer "+key.Reveal()))); err != nil {
			t.Fatal(err)
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if err := stream.RecvMsg(resp); err != nil || resp.GetDeniedResponse().GetStatus().GetCode() != 503 {
			t.Errorf("%v, %v", resp, err)
		}
	})
}
