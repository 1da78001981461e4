package grpcserver_test

import (
	"context"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz/grpcserver"
)

// browserCheck returns a message with the headers that envoy.yaml sends for the web app.
func browserCheck() *authv3.CheckRequest {
	return message(map[string]string{"scope": "a"}, raw(
		"authorization", "Bearer "+key.Reveal(), "cookie", "theme=dark; lang=de; _ga=GA1.1.1234567890.1234567890",
		"origin", "https://app.phantomrouter.ai", "content-type", "application/json", "x-request-id", "0d1e2f3a-4b5c-6d7e-8f90-a1b2c3d4e5f6",
	))
}

// cached is a source that answers without a wait.
type cached struct{ *source }

func (c cached) Cached(d credential.Digest) (rec credential.Record, found, known bool) {
	return record, d == c.digest, true
}

// BenchmarkHit measures a cache hit without gRPC, from message to message.
func BenchmarkHit(b *testing.B) {
	rules := &extauthz.Rules{SessionScopes: credential.NewScopes("chat:companion"), Origin: "https://app.phantomrouter.ai", CookieName: "phantom_session"}
	check := grpcserver.Direct(extauthz.NewChecker(cached{newSource()}, noUsage{}, rules, extauthz.NewMetrics(prometheus.NewRegistry(), nil)))
	msg, err := proto.Marshal(browserCheck())
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		answer, err := check(ctx, msg)
		if err != nil {
			b.Fatal(err)
		}
		answer.Free()
	}
}

// BenchmarkServer measures a cache hit through the server, including the client's cost.
func BenchmarkServer(b *testing.B) {
	_, conn := serve(b, newSource(), zap.NewNop())
	client, msg := authv3.NewAuthorizationClient(conn), browserCheck()
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			resp, err := client.Check(ctx, msg)
			cancel()
			if err != nil || resp.GetStatus().GetCode() != 0 {
				b.Errorf("%v, %v", resp, err)
			}
		}
	})
}
