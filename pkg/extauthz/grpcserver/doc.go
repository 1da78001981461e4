// Package grpcserver answers Envoy's envoy.service.auth.v3.Authorization/Check over
// grpc-go. It is the only place that knows Envoy's messages: request.go reads them,
// response.go writes them, codec.go has grpc-go leave both to these, and server.go serves
// them beside grpc.health.v1.
//
// Messages are read and written as bytes, and the tests hold that against the generated types: to
// make objects of all that Envoy sends was most of what a check cost beyond grpc-go itself
// (bench/check).
package grpcserver
