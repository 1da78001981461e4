package main

import (
	"context"
	"net"
	"os"
	"os/exec"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// constant answers every check with the same OK.
type constant struct {
	authv3.UnimplementedAuthorizationServer
	ok *authv3.CheckResponse
}

// Check implements authv3.AuthorizationServer.
func (c constant) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return c.ok, nil
}

// serveStock is the baseline: grpc-go as it comes.
func serveStock(socket string) error {
	listener, err := new(net.ListenConfig).Listen(context.Background(), "unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	authv3.RegisterAuthorizationServer(server, constant{ok: &authv3.CheckResponse{
		Status:       &rpcstatus.Status{},
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}},
	}})
	return server.Serve(listener)
}

// stockProcess is this program, serving.
type stockProcess struct{ cmd *exec.Cmd }

func startStock(site *testbed.Testbed, name string) (stockProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return stockProcess{}, err
	}
	cmd := exec.Command(self, "-serve", site.Socket(name))
	cmd.Stderr = os.Stderr
	return stockProcess{cmd}, cmd.Start()
}

func (p stockProcess) pid() int { return p.cmd.Process.Pid }

func (p stockProcess) end() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // it was killed
}
