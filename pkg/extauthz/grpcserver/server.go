package grpcserver

import (
	"context"
	"net"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// Bounds of a connection. Envoy opens one for each worker, and as many streams on it as requests
// wait. A listener on TCP may be reached by others, too.
const (
	// maxMessage is the size of a check message in bytes. Envoy's request headers are at most
	// 60 KiB in all by default (max_request_headers_kb). A smaller value answers 503 to
	// requests with large headers; a larger one costs memory for each stream of a client.
	maxMessage = 128 << 10
	// maxStreams is the number of checks in flight on one connection. With a smaller value Envoy
	// queues checks or opens further connections; a larger one costs memory.
	maxStreams = 8192
	// maxHeaderList is the size of the gRPC metadata of a check in bytes, as HTTP/2 counts it.
	// Envoy sends some 300; a larger value costs memory for each stream of a client.
	maxHeaderList = 16 << 10
	// streamWindow and connWindow are HTTP/2's flow control in bytes. Larger values cost memory
	// for each stream whose message does not come to its end; smaller ones make a client wait
	// for the round trip in a burst of checks.
	streamWindow = 64 << 10
	connWindow   = 1 << 20
	// handshakeTime is the time in which a new connection must have finished TLS and HTTP/2's
	// preface. A larger value keeps sockets of clients that never speak.
	handshakeTime = 10 * time.Second
	// minPing is the least time between a client's keepalive pings. grpc-go's default of 5
	// minutes would answer Envoy's with GOAWAY too_many_pings.
	minPing = 10 * time.Second
	// pingAfter is the quiet time after which the server pings a client, and pingTimeout how
	// long it waits before it closes the connection. Larger values keep connections of machines
	// that are gone; smaller ones cut a client that is stopped for a short time.
	pingAfter   = time.Minute
	pingTimeout = 20 * time.Second
)

// Server serves checks and grpc.health.v1. Make one with New.
type Server struct {
	grpc   *grpc.Server
	health *health.Server
}

// New makes a server of checker. It is not serving in the sense of grpc.health.v1
// until SetServing says so; checks are answered from the start. Interceptors in opts do not see
// checks.
//
// A check message of more than 128 KiB is answered with the gRPC status RESOURCE_EXHAUSTED, one
// that is not a CheckRequest with INTERNAL: Envoy answers its status_on_error in both cases. A
// check that panics is answered as unavailable.
func New(checker *extauthz.Checker, log *zap.Logger, opts ...grpc.ServerOption) *Server {
	failures := newFailures(checker.Metrics(), log)
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
		grpc.ForceServerCodecV2(codec{encoding.GetCodecV2(proto.Name), failures}),
	}, opts...)
	s := &Server{grpc: grpc.NewServer(opts...), health: health.NewServer()}
	s.grpc.RegisterService(&description, &service{checker, failures})
	healthv1.RegisterHealthServer(s.grpc, s.health)
	s.SetServing(false)
	return s
}

// Serve answers on a listener until Stop, and then returns nil. It may be called for
// several listeners at once.
func (s *Server) Serve(l net.Listener) error { return s.grpc.Serve(l) }

// SetServing tells grpc.health.v1 whether this server wants traffic.
func (s *Server) SetServing(serving bool) {
	state := healthv1.HealthCheckResponse_NOT_SERVING
	if serving {
		state = healthv1.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", state)
	s.health.SetServingStatus(authv3.Authorization_ServiceDesc.ServiceName, state)
}

// Stop takes no more connections, lets the checks under way end, and closes the rest
// when ctx ends.
func (s *Server) Stop(ctx context.Context) {
	s.health.Shutdown()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.grpc.GracefulStop()
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.grpc.Stop()
		<-done
	}
}

// description is Envoy's service with our own reading and writing of its messages.
var description = grpc.ServiceDesc{
	ServiceName: authv3.Authorization_ServiceDesc.ServiceName,
	HandlerType: (*any)(nil), // check says which
	Methods:     []grpc.MethodDesc{{MethodName: authv3.Authorization_ServiceDesc.Methods[0].MethodName, Handler: check}},
	Metadata:    authv3.Authorization_ServiceDesc.Metadata,
}

// service is what answers description's method.
type service struct {
	checker  *extauthz.Checker
	failures *failures
}

// check is a grpc.MethodHandler. Of a message that can be read it never returns an error: Envoy
// would put an answer of its own in place of ours. The answer is made by codec.Marshal.
func check(srv any, ctx context.Context, read func(any) error, _ grpc.UnaryServerInterceptor) (reply any, err error) { //nolint:revive // context-as-argument: grpc.MethodHandler's order
	s, asked, known := srv.(*service), new(exchange), false
	defer func() {
		if value := recover(); value != nil {
			s.failures.panicked(value)
			if known {
				asked.outcome = s.checker.Fail(&asked.Request)
			}
			reply, err = asked, nil // without an outcome it is answered as failed
		}
	}()
	if err := read(asked); err != nil {
		s.failures.unreadable(err)
		return nil, err
	}
	known = true
	asked.Arrived = arrivalOf(ctx)
	asked.outcome = s.checker.Decide(ctx, &asked.Request)
	return asked, nil
}
