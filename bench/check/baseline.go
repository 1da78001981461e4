package main

import (
	"context"
	"net"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
)

// constantOK answers every check with the same OK.
type constantOK struct {
	authv3.UnimplementedAuthorizationServer
	ok *authv3.CheckResponse
}

// Check implements authv3.AuthorizationServer.
func (c constantOK) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return c.ok, nil
}

// serveBaseline serves checks with grpc-go's default options.
func serveBaseline(socket string) error {
	listener, err := new(net.ListenConfig).Listen(context.Background(), "unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	authv3.RegisterAuthorizationServer(server, constantOK{ok: &authv3.CheckResponse{
		Status:       &rpcstatus.Status{},
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}},
	}})
	return server.Serve(listener)
}
