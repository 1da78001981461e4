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

// EnvoyTimeout is what envoy.yaml gives a check.
const EnvoyTimeout = 500 * time.Millisecond

// Checks asks a sidecar as Envoy does.
type Checks struct {
	conn *grpc.ClientConn
	auth authv3.AuthorizationClient
}

// Checks connects to the socket of the sidecar of that name, whichever process
// has it.
func (s *Site) Checks(name string) (*Checks, error) {
	conn, err := grpc.NewClient(s.socket(name), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	return &Checks{conn: conn, auth: authv3.NewAuthorizationClient(conn)}, nil
}

// Close ends the connection.
func (c *Checks) Close() { _ = c.conn.Close() }

// Answer is what a check has come to.
type Answer struct {
	// Reason is the row of the deny table, "ok" for an allow.
	Reason string
	// Status of the HTTP answer; 200 for an allow.
	Status int
}

// Check asks about a key or a session, as long as ctx allows. An error says that the
// sidecar did not answer: behind an Envoy that is a 503.
func (c *Checks) Check(ctx context.Context, s credential.Secret, options ...grpc.CallOption) (Answer, error) {
	response, err := c.auth.Check(ctx, Request(s), options...)
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

// AsEnvoy is Check with the time that Envoy gives it.
func (c *Checks) AsEnvoy(ctx context.Context, s credential.Secret) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, EnvoyTimeout)
	defer cancel()
	return c.Check(ctx, s)
}

// Request makes the message that Envoy sends for a request with that credential.
func Request(s credential.Secret) *authv3.CheckRequest {
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
