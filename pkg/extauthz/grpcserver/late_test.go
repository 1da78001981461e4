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
	"google.golang.org/grpc/test/bufconn"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// frozen is a Source that ignores its context, as if the process had been stopped during a check.
type frozen struct {
	*source
	lasts time.Duration
}

func (f frozen) Cached(credential.Digest) (rec credential.Record, found, known bool) {
	return credential.Record{}, false, false
}

func (f frozen) Lookup(ctx context.Context, d credential.Digest) (credential.Record, bool, error) {
	<-time.After(f.lasts)
	return f.source.Lookup(ctx, d)
}

// serveBuffered is serve without sockets, for synctest.
func serveBuffered(t *testing.T, src extauthz.Source, rules *extauthz.Rules, reg *prometheus.Registry) *grpc.ClientConn {
	t.Helper()
	ln := bufconn.Listen(1 << 16)
	start(t, ln, extauthz.NewChecker(src, noUsage{}, rules, extauthz.NewMetrics(reg, nil)), zap.NewNop())
	return dial(t, "passthrough:buffer", grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return ln.DialContext(ctx) }))
}

// A frozen process must not allow on facts from before it was frozen.
func TestLateCheckIsUnavailable(t *testing.T) {
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
				conn := serveBuffered(t, frozen{newSource(), tt.lasts}, &extauthz.Rules{KeyAPITimeout: tt.timeout, Shadow: tt.shadow}, reg)
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

func TestLimitBeginsAtTheHeadersOfACheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := serveBuffered(t, newSource(), &extauthz.Rules{}, prometheus.NewRegistry())
		stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true}, authv3.Authorization_Check_FullMethodName)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the headers have arrived
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
