package grpcfront

import (
	"context"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// CheckFunc is the service without its transport.
func CheckFunc(c *extauthz.Checker) func(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return authorization{checker: c}.Check
}
