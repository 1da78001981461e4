// Command echo is the upstream of the demo and of the tests. Its answer describes the request, which shows what Envoy sends
// upstream.
//
// It answers HTTP/1.1 and HTTP/2 without TLS with 200 and the JSON {"method","path","headers":{name:[values]},"body"}. The
// path includes the query, and header names are in lower case. WebSocket messages and the message of a unary gRPC call are
// returned unchanged.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stderr))
}

// run returns the exit code: 2 for bad usage, 1 for a failure.
func run(ctx context.Context, args []string, stderr io.Writer) int {
	flags := flag.NewFlagSet("echo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", "127.0.0.1:8080", "`HOST:PORT` of the listener")
	healthcheck := flags.Bool("healthcheck", false, "check that the server at -listen answers, and exit with 0 or 1")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case flags.NArg() > 0:
		_, _ = fmt.Fprintf(stderr, "echo: unexpected argument %q\n", flags.Arg(0))
		return 2
	}
	do := serve
	if *healthcheck {
		do = probe
	}
	if err := do(ctx, *listen); err != nil {
		_, _ = fmt.Fprintf(stderr, "echo: %v\n", err)
		return 1
	}
	return 0
}

func serve(ctx context.Context, address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.HandlerFunc(answer), ReadHeaderTimeout: 10 * time.Second, Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	stopped := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stopped()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// probe sends a request to the server at the address. It uses loopback for an unspecified address.
func probe(ctx context.Context, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); host == "" || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("GET http://%s/: status %d", address, response.StatusCode)
	}
	return nil
}
