package testbed

import (
	"context"
	"strings"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// EnvoyTimeout is the timeout of a check in envoy.yaml.
const EnvoyTimeout = 500 * time.Millisecond

// CheckClient sends checks to a sidecar as Envoy does.
type CheckClient struct {
	conn *grpc.ClientConn
	auth authv3.AuthorizationClient
}

// CheckClient returns a client of the sidecar of that name. It reconnects when the sidecar is restarted.
func (tb *Testbed) CheckClient(name string) (*CheckClient, error) {
	return NewCheckClient(tb.Socket(name))
}

// NewCheckClient returns a client of the sidecar that listens at the socket.
func NewCheckClient(socket string) (*CheckClient, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	return &CheckClient{conn: conn, auth: authv3.NewAuthorizationClient(conn)}, nil
}

// Close closes the connection.
func (c *CheckClient) Close() { _ = c.conn.Close() }

// Answer is the result of a check.
type Answer struct {
	// Reason is the reason of the deny table; "ok" for an allow.
	Reason string
	// Status is that of the HTTP response; 200 for an allow.
	Status int
}

// Check sends a check of a key or a session. An error means that the sidecar has not answered: Envoy responds with 503.
func (c *CheckClient) Check(ctx context.Context, s credential.Secret, options ...grpc.CallOption) (Answer, error) {
	response, err := c.auth.Check(ctx, CheckRequest(s), options...)
	if err != nil {
		return Answer{}, err
	}
	a := Answer{Reason: response.GetDynamicMetadata().GetFields()["reason"].GetStringValue()}
	a.Status = int(response.GetDeniedResponse().GetStatus().GetCode())
	if response.GetStatus().GetCode() == int32(codes.OK) {
		a.Status = 200
	}
	return a, nil
}

// CheckAsEnvoy is Check with EnvoyTimeout.
func (c *CheckClient) CheckAsEnvoy(ctx context.Context, s credential.Secret) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, EnvoyTimeout)
	defer cancel()
	return c.Check(ctx, s)
}

// CheckRequest returns the message that Envoy sends for a request with that credential.
func CheckRequest(s credential.Secret) *authv3.CheckRequest {
	headers := map[string]string{":method": "GET", ":path": "/api/v1/me", ":authority": "api.example.com", "user-agent": "tests"}
	if text := s.Reveal(); strings.HasPrefix(text, credential.SessionPrefix) {
		headers["cookie"] = "phantom_session=" + text
		headers["origin"] = "https://app.phantomrouter.ai"
	} else {
		headers["authorization"] = "Bearer " + text
	}
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Method: "GET", Path: "/api/v1/me", Host: "api.example.com", Scheme: "https", Protocol: "HTTP/2", Headers: headers,
		}},
		ContextExtensions: map[string]string{"principal": "any"},
	}}
}
