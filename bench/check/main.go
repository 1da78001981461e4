// Command check measures what a check costs that authzd answers from memory,
// against a stock grpc-go server with the generated types that answers a constant
// OK: the least that a sidecar on grpc-go can do.
//
// Both are processes of their own behind a Unix socket, and are asked by the same
// client with the same message, in turns. The CPU is that of the server's process.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

func main() {
	rounds := flag.Int("rounds", 7, "rounds of each server")
	lasts := flag.Duration("lasts", 2*time.Second, "how long a round lasts")
	serve := flag.String("serve", "", "be the stock server on this socket")
	flag.Parse()
	var err error
	if *serve != "" {
		err = serveStock(*serve)
	} else {
		err = run(context.Background(), *rounds, *lasts)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "check:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, rounds int, lasts time.Duration) error {
	return testbed.Run(ctx, func(site *testbed.Testbed) error { return measure(ctx, site, rounds, lasts) }, "cmd/keyd", "cmd/authzd")
}

func measure(ctx context.Context, site *testbed.Testbed, rounds int, lasts time.Duration) error {
	authzd, keys, err := startAuthzd(ctx, site)
	if err != nil {
		return err
	}
	stock, err := startStock(site, "stock")
	if err != nil {
		return err
	}
	defer stock.end()
	servers := []*server{
		{name: "stock grpc-go, constant OK (baseline)", socket: "stock", pid: stock.pid()},
		{name: "authzd, from memory", socket: "authzd", pid: authzd.Pid()},
	}
	for i := range rounds + 1 {
		for _, s := range servers {
			r, err := s.round(ctx, site, keys, lasts)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			if i > 0 { // the first warms up
				s.rounds = append(s.rounds, r)
			}
		}
	}
	report(servers[0], servers[1])
	return nil
}

// startAuthzd starts a sidecar that knows a thousand keys.
func startAuthzd(ctx context.Context, site *testbed.Testbed) (*testbed.Process, []credential.Secret, error) {
	quiet := testbed.Config{"log": testbed.Config{"level": "info"}}
	if _, err := site.StartKeyd(ctx, quiet); err != nil {
		return nil, nil, err
	}
	authzd, err := site.StartAuthzd(ctx, "authzd", quiet)
	if err != nil {
		return nil, nil, err
	}
	account, err := site.CreateAccount(ctx)
	if err != nil {
		return nil, nil, err
	}
	checks, err := site.CheckClient("authzd")
	if err != nil {
		return nil, nil, err
	}
	defer checks.Close()
	keys := make([]credential.Secret, 1000)
	for i := range keys {
		key, err := site.MintKey(ctx, account)
		if err != nil {
			return nil, nil, err
		}
		keys[i] = key.Secret
		if err := testbed.Until(ctx, func() error { return allowed(ctx, checks, key.Secret) }); err != nil {
			return nil, nil, err
		}
	}
	return authzd, keys, nil
}

func allowed(ctx context.Context, checks *testbed.CheckClient, key credential.Secret) error {
	answer, err := checks.Check(ctx, key)
	if err == nil && answer.Status != 200 {
		err = fmt.Errorf("a good key: %v", answer)
	}
	return err
}
