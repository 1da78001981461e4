package grpcserver

import (
	"context"

	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// Direct returns checks without their transport: what the bytes of a CheckRequest are answered
// with.
func Direct(c *extauthz.Checker) func(ctx context.Context, request []byte) ([]byte, error) {
	s := &service{c, newFailures(c.Metrics(), zap.NewNop())}
	return func(ctx context.Context, request []byte) ([]byte, error) {
		ctx, _ = noteArrival(ctx, nil)
		got, err := check(s, ctx, func(into any) error { return into.(*exchange).read(request) }, nil)
		if err != nil {
			return nil, err
		}
		return codec{failures: s.failures}.answer(nil, got.(*exchange)), nil
	}
}
