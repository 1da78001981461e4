// Package bench contains what the benchmarks share: their start, keys, sidecars, rounds, statistics and reports.
package bench

import (
	"context"
	"flag"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// Quiet is a configuration with the default log level, which the testbed lowers.
func Quiet() testbed.Config { return testbed.Config{"log": testbed.Config{"level": "info"}} }

// Main parses the flags, runs the benchmark and writes the file of the flag -json. An error ends the program with exit code 1,
// without the file.
func Main(run func(context.Context) error) {
	flag.Parse()
	name, meter := filepath.Base(os.Args[0]), StartMeter()
	err := run(context.Background())
	if err == nil {
		err = write(name, meter)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// MintCached mints n keys, and waits until the sidecar allows each of them from its cache.
func MintCached(ctx context.Context, tb *testbed.Testbed, sidecar string, n int) ([]credential.Secret, error) {
	account, err := tb.CreateAccount(ctx)
	if err != nil {
		return nil, err
	}
	checks, err := tb.CheckClient(sidecar)
	if err != nil {
		return nil, err
	}
	defer checks.Close()
	keys := make([]credential.Secret, n)
	for i := range keys {
		key, err := tb.MintKey(ctx, account)
		if err != nil {
			return nil, err
		}
		keys[i] = key.Secret
		if err := testbed.Until(ctx, func() error { return checks.CheckAllowed(ctx, key.Secret) }); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// SidecarClient returns a client of keyd's API for sidecars, with its own connections.
func SidecarClient(tb *testbed.Testbed, timeout time.Duration) (*sidecarapi.Client, error) {
	token, err := tb.SidecarToken()
	if err != nil {
		return nil, err
	}
	return sidecarapi.New(sidecarapi.Options{
		URL:     &url.URL{Scheme: "unix", Path: tb.Socket("sidecars")},
		Token:   func() credential.Secret { return token },
		Timeout: timeout,
	}), nil
}

// AwaitSidecars waits until n sidecars are on record.
func AwaitSidecars(ctx context.Context, tb *testbed.Testbed, n int) error {
	return testbed.Until(ctx, func() error {
		list, err := tb.Operators.Sidecars(ctx)
		if err == nil && len(list.Items) != n {
			err = fmt.Errorf("%d of %d sidecars are connected", len(list.Items), n)
		}
		return err
	})
}

// AwaitEffective sends a change and waits until it is effective.
func AwaitEffective(ctx context.Context, tb *testbed.Testbed, change operatorapi.Request) (operatorapi.Answer, error) {
	answer, err := tb.Operators.Do(ctx, change.Waiting(operatorapi.MaxWait))
	if err == nil && !answer.Change.Effective {
		err = fmt.Errorf("change is not effective: %+v", answer.Change)
	}
	return answer, err
}

// CPU returns the processor time that the process uses while do runs.
func CPU(pid int, do func() error) (time.Duration, error) {
	before, err := testbed.CPU(pid)
	if err != nil {
		return 0, err
	}
	if err := do(); err != nil {
		return 0, err
	}
	after, err := testbed.CPU(pid)
	return after - before, err
}
