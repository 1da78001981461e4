// Package grpcfront answers Envoy's envoy.service.auth.v3.Authorization/Check over
// grpc-go. It is the only place that knows Envoy's messages: request.go reads them,
// response.go writes them, codec.go has grpc-go leave both to these, and server.go serves
// them beside grpc.health.v1.
//
// Messages are read and written as bytes. With the generated types, which the tests hold it
// against, a check made three times as many objects as it needs, and the time that the garbage
// collector takes for these is what the slowest checks waited for.
package grpcfront
