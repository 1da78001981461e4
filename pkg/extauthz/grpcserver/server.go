// Package grpcserver is the gRPC transport of extauthz: it serves Envoy's
// envoy.service.auth.v3.Authorization/Check beside grpc.health.v1. It is the only package that
// knows Envoy's messages: server.go handles a check, request.go reads its message and response.go
// writes the answer.
//
// Messages are read and written as protobuf bytes in one pass, without the generated types, which
// cost more than the rest of a check beyond grpc-go (bench/check); the tests compare both. A check
// allocates one exchange, one copy of its message, and what extauthz allocates; the bytes of the
// answer come from a pool.
package grpcserver

import (
	"context"
	"net"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/tap"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// Bounds of a connection. Envoy opens one for each worker and a stream on it for each waiting
// request. Other clients may reach a listener on TCP too.
const (
	// maxMessage is the size of a check message in bytes. Envoy's request headers are at most
	// 60 KiB in all by default (max_request_headers_kb). Smaller answers requests with large
	// headers with 503; larger costs memory for each stream of a client.
	maxMessage = 128 << 10
	// maxStreams is the number of checks in flight on one connection. Smaller makes Envoy queue
	// checks or open more connections; larger costs memory.
	maxStreams = 8192
	// maxHeaderList is the size of the gRPC metadata of a check in bytes, as HTTP/2 counts it.
	// Envoy sends some 300. Larger costs memory for each stream of a client.
	maxHeaderList = 16 << 10
	// streamWindow and connWindow are HTTP/2's flow control windows in bytes. Larger costs memory
	// for each stream whose message is incomplete; smaller makes a client wait for the round trip
	// in a burst of checks.
	streamWindow = 64 << 10
	connWindow   = 1 << 20
	// handshakeTime is the time for TLS and HTTP/2's preface of a new connection. Larger keeps
	// the sockets of silent clients longer.
	handshakeTime = 10 * time.Second
	// minPing is the least time between a client's keepalive pings. grpc-go's default of 5
	// minutes would answer Envoy's pings with GOAWAY too_many_pings.
	minPing = 10 * time.Second
	// pingAfter is the idle time before the server pings a client, pingTimeout the time that it
	// then waits before it closes the connection. Larger keeps connections of lost machines
	// longer; smaller disconnects a client that pauses for a short time.
	pingAfter   = time.Minute
	pingTimeout = 20 * time.Second

	// streamWorkers is the number of goroutines that handle checks and are kept, so that their
	// stacks need not grow again for each check. Further checks in flight start their own.
	// Smaller starts more goroutines under load; larger keeps more idle stacks.
	streamWorkers = 64

	// usualSize is the initial size of an answer in bytes. Smaller makes most answers grow;
	// larger occupies larger buffers of the pool.
	usualSize = 1 << 10
)

// Server serves checks and grpc.health.v1.
type Server struct {
	grpc   *grpc.Server
	health *health.Server
}

// New makes a server of checker. grpc.health.v1 reports it as not serving until SetServing; checks
// are answered from the start. Interceptors in opts do not see checks.
//
// A check message of more than 128 KiB is answered with the gRPC status RESOURCE_EXHAUSTED, one
// that is not a CheckRequest with INTERNAL; Envoy then answers with its status_on_error. A check
// that panics is answered as unavailable.
//
// The tracer makes the spans of checks whose trace Envoy has sampled. nil means none; then no metadata
// is read.
func New(checker *extauthz.Checker, log *zap.Logger, tracer trace.Tracer, opts ...grpc.ServerOption) *Server {
	h := newHandler(checker, log, tracer)
	opts = append([]grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeaderList),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.ConnectionTimeout(handshakeTime),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: pingTimeout}),
		grpc.InTapHandle(noteArrival),
		grpc.ForceServerCodecV2(h),
		grpc.NumStreamWorkers(streamWorkers),
	}, opts...)
	s := &Server{grpc: grpc.NewServer(opts...), health: health.NewServer()}
	s.grpc.RegisterService(&description, h)
	healthv1.RegisterHealthServer(s.grpc, s.health)
	s.SetServing(false)
	return s
}

// Serve serves a listener until Stop, and then returns nil. It may be called for several listeners.
func (s *Server) Serve(l net.Listener) error { return s.grpc.Serve(l) }

// SetServing sets what grpc.health.v1 reports.
func (s *Server) SetServing(serving bool) {
	state := healthv1.HealthCheckResponse_NOT_SERVING
	if serving {
		state = healthv1.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", state)
	s.health.SetServingStatus(authv3.Authorization_ServiceDesc.ServiceName, state)
}

// Stop shuts down gracefully: it stops accepting connections and waits for the checks in flight.
// When ctx ends, it cancels them.
func (s *Server) Stop(ctx context.Context) {
	s.health.Shutdown()
	defer context.AfterFunc(ctx, s.grpc.Stop)()
	s.grpc.GracefulStop()
}

// description is Envoy's service with handler in place of the generated code.
var description = grpc.ServiceDesc{
	ServiceName: authv3.Authorization_ServiceDesc.ServiceName,
	HandlerType: (*any)(nil), // check requires *handler
	Methods:     []grpc.MethodDesc{{MethodName: authv3.Authorization_ServiceDesc.Methods[0].MethodName, Handler: check}},
	Metadata:    authv3.Authorization_ServiceDesc.Metadata,
}

// handler handles checks. It is also the server's codec, which reads and writes their messages and
// leaves all others to grpc-go's.
type handler struct {
	encoding.CodecV2
	checker  *extauthz.Checker
	failures *failures
	tracer   trace.Tracer // nil without tracing
}

func newHandler(checker *extauthz.Checker, log *zap.Logger, tracer trace.Tracer) *handler {
	return &handler{encoding.GetCodecV2(proto.Name), checker, newFailures(checker.Metrics(), log), tracer}
}

// check is a grpc.MethodHandler. It returns an error only for a message that cannot be read,
// because Envoy replaces an error by its own answer. Marshal makes the answer.
func check(srv any, ctx context.Context, read func(any) error, _ grpc.UnaryServerInterceptor) (reply any, err error) { //nolint:revive // context-as-argument: grpc.MethodHandler's order
	h, x, wasRead := srv.(*handler), new(exchange), false
	defer func() {
		if value := recover(); value != nil {
			h.failures.panicked(value)
			if wasRead {
				x.outcome = h.checker.Fail(&x.Request)
			}
			reply, err = x, nil // the zero outcome is answered as failed
		}
	}()
	if err := read(x); err != nil {
		h.failures.unreadable(err)
		return nil, err
	}
	wasRead = true
	x.Arrived = arrivalOf(ctx)
	if h.tracer != nil {
		h.decideTraced(ctx, x)
		return x, nil
	}
	x.outcome = h.checker.Decide(ctx, &x.Request)
	return x, nil
}

// buffers is the pool of the bytes of messages, which relieves the garbage collector.
var buffers = mem.DefaultBufferPool()

// Unmarshal implements encoding.CodecV2.
func (h *handler) Unmarshal(data mem.BufferSlice, message any) error {
	x, ok := message.(*exchange)
	if !ok {
		return h.CodecV2.Unmarshal(data, message)
	}
	whole := data.MaterializeToBuffer(buffers)
	defer whole.Free()
	return x.read(whole.ReadOnlyData())
}

// Marshal implements encoding.CodecV2. It makes the answer, because it is the last call before
// grpc-go writes it, and an answer must not be late.
func (h *handler) Marshal(message any) (mem.BufferSlice, error) {
	x, ok := message.(*exchange)
	if !ok {
		return h.CodecV2.Marshal(message)
	}
	buffer := buffers.Get(usualSize)
	*buffer = h.answer((*buffer)[:0], x)
	return mem.BufferSlice{mem.NewBuffer(buffer, buffers)}, nil
}

// answer appends the message of the answer; if making it panics, that of a denial.
func (h *handler) answer(b []byte, x *exchange) (message []byte) {
	defer func() {
		if value := recover(); value != nil {
			h.failures.panicked(value)
			failed := extauthz.Failed()
			x.endSpan(&failed)
			message = write(b[:0], &failed)
		}
	}()
	answer := x.outcome.Answer()
	x.endSpan(&answer)
	return write(b, &answer)
}

// arrival is the context of a stream with the time at which its headers were read, before grpc-go
// starts a goroutine for it. context.WithValue would allocate twice.
type arrival struct {
	context.Context
	at time.Time
}

type arrivalKey struct{}

// Value implements context.Context.
func (a *arrival) Value(key any) any {
	if key == (arrivalKey{}) {
		return a
	}
	return a.Context.Value(key)
}

// noteArrival is a tap.ServerInHandle.
func noteArrival(ctx context.Context, _ *tap.Info) (context.Context, error) {
	return &arrival{ctx, time.Now()}, nil
}

// arrivalOf returns the time at which the stream of ctx arrived, zero without noteArrival.
func arrivalOf(ctx context.Context) time.Time {
	if a, ok := ctx.Value(arrivalKey{}).(*arrival); ok {
		return a.at
	}
	return time.Time{}
}
