package main

import (
	"go.uber.org/zap"
	"go.uber.org/zap/zapgrpc"
	"google.golang.org/grpc/grpclog"
)

// logGRPC redirects the errors of package grpc to the log: its own logger blocks when stderr is not
// read. It must be called before the first use of package grpc.
func logGRPC(log *zap.Logger) {
	grpclog.SetLoggerV2(zapgrpc.NewLogger(log.Named("grpc").WithOptions(zap.IncreaseLevel(zap.ErrorLevel))))
}
