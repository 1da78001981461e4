package grpcserver

import (
	"context"
	"time"

	"google.golang.org/grpc/tap"
)

// arrival is the context of a stream with the moment when its headers were read, before grpc-go
// starts a goroutine for it.
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

// arrivalOf returns when the stream of ctx arrived, the zero time if it did not pass noteArrival.
func arrivalOf(ctx context.Context) time.Time {
	if a, ok := ctx.Value(arrivalKey{}).(*arrival); ok {
		return a.at
	}
	return time.Time{}
}
