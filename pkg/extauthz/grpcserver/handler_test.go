package grpcserver

import (
	"context"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// Direct returns checks without gRPC: from the bytes of a CheckRequest to those of the answer, which
// the caller frees.
func Direct(c *extauthz.Checker) func(ctx context.Context, request []byte) (mem.BufferSlice, error) {
	return DirectTraced(c, nil)
}

// DirectTraced is Direct with a tracer.
func DirectTraced(c *extauthz.Checker, tracer trace.Tracer) func(ctx context.Context, request []byte) (mem.BufferSlice, error) {
	h := newHandler(c, zap.NewNop(), tracer)
	return func(ctx context.Context, request []byte) (mem.BufferSlice, error) {
		ctx, _ = noteArrival(ctx, nil)
		read := func(into any) error { return h.Unmarshal(mem.BufferSlice{mem.SliceBuffer(request)}, into) }
		got, err := check(h, ctx, read, nil)
		if err != nil {
			return nil, err
		}
		return h.Marshal(got)
	}
}

// A panic before the message is read denies in shadow mode too, because nothing is known.
func TestPanicWhileReadingDenies(t *testing.T) {
	for _, shadow := range []bool{false, true} {
		h := newHandler(extauthz.NewChecker(nil, nil, &extauthz.Rules{Shadow: shadow}, extauthz.NewMetrics(prometheus.NewRegistry(), nil)), zap.NewNop(), nil)
		reply, err := check(h, t.Context(), func(any) error { panic("reading") }, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp := new(authv3.CheckResponse)
		if err := proto.Unmarshal(h.answer(nil, reply.(*exchange)), resp); err != nil ||
			resp.GetStatus().GetCode() != 14 || resp.GetDeniedResponse().GetStatus().GetCode() != 503 {
			t.Errorf("%v, %v", resp, err)
		}
	}
}
