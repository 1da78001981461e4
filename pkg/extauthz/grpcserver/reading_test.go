package grpcserver

import (
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// TestPanicWhileReading: of the message nothing is known, so it is denied in shadow mode too.
func TestPanicWhileReading(t *testing.T) {
	for _, shadow := range []bool{false, true} {
		checker := extauthz.NewChecker(nil, nil, &extauthz.Rules{Shadow: shadow}, extauthz.NewMetrics(prometheus.NewRegistry()))
		s := &service{checker, newFailures(checker.Metrics(), zap.NewNop())}
		reply, err := check(s, t.Context(), func(any) error { panic("reading") }, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp := new(authv3.CheckResponse)
		if err := proto.Unmarshal(codec{failures: s.failures}.answer(nil, reply.(*exchange)), resp); err != nil ||
			resp.GetStatus().GetCode() != 14 || resp.GetDeniedResponse().GetStatus().GetCode() != 503 {
			t.Errorf("%v, %v", resp, err)
		}
	}
}
