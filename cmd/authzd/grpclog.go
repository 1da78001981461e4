package main

import (
	"go.uber.org/zap"
	"go.uber.org/zap/zapgrpc"
	"google.golang.org/grpc/grpclog"
)

// logGRPC has package grpc write its errors to the log. Its own logger writes to
// stderr, and blocks when stderr is not read. It must be called before the first use of
// package grpc.
func logGRPC(log *zap.Logger) {
	grpclog.SetLoggerV2(zapgrpc.NewLogger(log.Named("grpc").WithOptions(zap.IncreaseLevel(zap.ErrorLevel))))
}
