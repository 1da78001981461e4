package envoy_test

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"

	"github.com/phantomrouter/phantom-authz/envoy"
)

// sidecar answers every check as the test says.
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

// behind runs an Envoy whose sidecar answers as the function says.
func behind(t *testing.T, version string, answer answerFunc) *front {
	t.Helper()
	w := shared(t)
	socket := w.file(fmt.Sprintf("own-%d.sock", time.Now().UnixNano()))
	serveChecks(t, socket, answer)
	return w.ownEnvoy(t, version, envoy.Addresses{Authz: "unix://" + socket})
}

// serveChecks is a sidecar on a socket. The function that it returns stops it, and
// leaves no socket.
func serveChecks(t *testing.T, socket string, answer answerFunc) (stop func()) {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	auth.RegisterAuthorizationServer(server, &sidecar{answer: answer})
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return server.Stop
}
