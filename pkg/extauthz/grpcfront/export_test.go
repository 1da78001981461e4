package grpcfront

import (
	"context"

	"google.golang.org/grpc"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// Answer is a check without its transport: what the bytes of a CheckRequest are answered with.
func Answer(ctx context.Context, c *extauthz.Checker, request []byte) ([]byte, error) {
	direct := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		return next(ctx, req)
	}
	got, err := check(c, ctx, func(into any) error { return into.(*question).read(request) }, direct)
	if err != nil {
		return nil, err
	}
	return write(nil, &got.(*reply).Answer), nil
}
