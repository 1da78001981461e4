package grpcfront

import (
	"context"
	"net"
	"runtime/debug"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// Bounds of a connection. Envoy's request headers are at most 60 KiB in all by
// default (max_request_headers_kb), so a check message of more than maxMessage is none
// of its own; it opens one connection for each worker, and as many streams on it as
// requests wait.
const (
	maxMessage = 1 << 20
	maxStreams = 1 << 16
	// minPing lets Envoy's keepalive pings be: grpc-go's default of 5 minutes would
	// answer them with GOAWAY too_many_pings.
	minPing = 10 * time.Second
)

// Server serves checks and grpc.health.v1. Make one with New.
type Server struct {
	grpc   *grpc.Server
	health *health.Server
}

// New makes a server of checker. It is not serving in the sense of grpc.health.v1
// until SetServing says so; checks are answered from the start.
func New(checker *extauthz.Checker, log *zap.Logger, opts ...grpc.ServerOption) *Server {
	opts = append([]grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(recovered(log)),
		grpc.ForceServerCodecV2(codec{encoding.GetCodecV2(proto.Name)}),
	}, opts...)
	s := &Server{grpc: grpc.NewServer(opts...), health: health.NewServer()}
	s.grpc.RegisterService(&description, checker)
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

// check is a grpc.MethodHandler. Of a message that can be read it never returns an error: Envoy
// would put an answer of its own in place of ours.
func check(checker any, ctx context.Context, read func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) { //nolint:revive // context-as-argument: grpc.MethodHandler's order
	asked := new(question)
	if err := read(asked); err != nil {
		return nil, err
	}
	answer := func(ctx context.Context, _ any) (any, error) {
		return &reply{checker.(*extauthz.Checker).Check(ctx, &asked.Request)}, nil
	}
	return intercept(ctx, asked, &grpc.UnaryServerInfo{Server: checker, FullMethod: authv3.Authorization_Check_FullMethodName}, answer)
}

// recovered turns a panic into a gRPC error, which Envoy answers as its
// status_on_error, 503. The panic's value is not logged: it may hold what a client sent.
func recovered(log *zap.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
		defer func() {
			if recover() != nil {
				log.Error("a check panicked", zap.String("method", info.FullMethod), zap.ByteString("stack", debug.Stack()))
				resp, err = nil, status.Error(codes.Internal, "internal error")
			}
		}()
		return next(ctx, req)
	}
}
