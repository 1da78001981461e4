package envoy_test

import (
	"context"
	"net"
	"testing"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"

	"github.com/phantomrouter/phantom-authz/envoy"
)

// sidecar answers checks with a function of the test.
type sidecar struct {
	auth.UnimplementedAuthorizationServer
	answer answerFunc
}

type answerFunc func(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error)

func (s *sidecar) Check(ctx context.Context, r *auth.CheckRequest) (*auth.CheckResponse, error) {
	return s.answer(ctx, r)
}

func allowAll(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error) {
	return &auth.CheckResponse{}, nil
}

// withSidecar runs an Envoy whose checks are answered by the function.
func withSidecar(t *testing.T, env *environment, s setup, answer answerFunc, edits ...edit) *proxy {
	t.Helper()
	socket := env.Socket(unique("own"))
	serveChecks(t, "unix", socket, answer)
	return env.ownEnvoy(t, s, envoy.Addresses{Authz: "unix://" + socket}, edits...)
}

// serveChecks runs a sidecar and returns its address and a function that stops it and removes its socket.
func serveChecks(t *testing.T, network, address string, answer answerFunc) (addr string, stop func()) {
	t.Helper()
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	auth.RegisterAuthorizationServer(server, &sidecar{answer: answer})
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().String(), server.Stop
}
