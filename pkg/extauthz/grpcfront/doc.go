// Package grpcfront answers Envoy's envoy.service.auth.v3.Authorization/Check with
// grpc-go and the generated types. It is the only place that knows Envoy's
// messages: request.go reads them, response.go writes them, server.go serves them
// beside grpc.health.v1.
package grpcfront
