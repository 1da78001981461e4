package grpcserver_test

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz/grpcserver"
)

// Each allocation of a hit costs more than its own time, because it makes collections more frequent.
func TestHitAllocatesLittle(t *testing.T) {
	const most = 11 // without those of grpc-go; three are the test's
	check := grpcserver.Direct(extauthz.NewChecker(cached{newSource()}, noUsage{}, &extauthz.Rules{CookieName: "s"}, extauthz.NewMetrics(prometheus.NewRegistry(), nil)))
	msg, err := proto.Marshal(browserCheck())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if n := testing.AllocsPerRun(1000, func() {
		answer, err := check(ctx, msg)
		if err != nil {
			t.Fatal(err)
		}
		answer.Free()
	}); n > most {
		t.Errorf("%v allocations, want at most %d", n, most)
	}
}
