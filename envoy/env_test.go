package envoy_test

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"net"
	"os"
	"sync"
	"testing"

	"github.com/phantomrouter/phantom-authz/envoy"
	"github.com/phantomrouter/phantom-authz/internal/collector"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// environment is shared by all tests: keyd, authzd, the echo upstream, and an Envoy of each setup in front of them.
type environment struct {
	*testbed.Testbed
	echo    string // HOST:PORT of the upstream
	creds   testbed.Credentials
	proxies []*proxy // newest version first

	collector *collector.Collector // of traces, for keyd
}

var programs struct {
	once sync.Once
	dir  string
	env  *environment
	err  error
}

func TestMain(m *testing.M) {
	flag.Parse()
	// Parallel tests wait for timeouts of Envoy and need little CPU. Fewer at a time take longer.
	if err := flag.Set("test.parallel", "32"); err != nil {
		panic(err)
	}
	code := m.Run()
	if programs.env != nil {
		if err := programs.env.Close(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		programs.env.collector.Close()
	}
	_ = os.RemoveAll(programs.dir)
	os.Exit(code)
}

// shared returns the environment. The first call creates it.
func shared(t *testing.T) *environment {
	t.Helper()
	programs.once.Do(func() { programs.err = startAll(context.Background()) })
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	return programs.env
}

func startAll(ctx context.Context) (err error) {
	if programs.dir, err = os.MkdirTemp("", "programs"); err != nil {
		return err
	}
	if err := testbed.Build(ctx, programs.dir, "cmd/keyd", "cmd/authzd", "envoy/echo"); err != nil {
		return err
	}
	if err := testbed.BuildModule(ctx, programs.dir); err != nil {
		return err
	}
	tb, err := testbed.New(programs.dir)
	if err != nil {
		return err
	}
	env := &environment{Testbed: tb, collector: collector.Start()}
	programs.env = env
	if _, err := env.StartKeyd(ctx, testbed.Config{"drain": "1s", "tracing": testbed.Config{"otlp": env.collector.URL()}}); err != nil {
		return err
	}
	if env.creds, err = env.Seed(ctx); err != nil {
		return err
	}
	addresses, err := testbed.FreeAddresses(1)
	if err != nil {
		return err
	}
	env.echo = addresses[0]
	if _, err := env.Start("echo", env.Command(ctx, "echo", "-listen", env.echo)); err != nil {
		return err
	}
	if err := env.Await(ctx, "echo", func() error { return testbed.Probe(ctx, "http://"+env.echo) }); err != nil {
		return err
	}
	if _, err := env.startAuthzd("authz", nil); err != nil {
		return err
	}
	for _, s := range setups() {
		p, err := env.startEnvoy("envoy-"+s.String(), s, envoy.Addresses{}, nil)
		if err != nil {
			return err
		}
		env.proxies = append(env.proxies, p)
	}
	return nil
}

// socket returns the URL of a socket.
func (env *environment) socket(name string) string { return "unix://" + env.Socket(name) }

// keyOnly is an endpoint that only keys may use. It is in the sidecar's table, since envoy.yaml has none.
const keyOnly = "/key-only"

// checkConfig returns the configuration of authzd or of the module. The fields of changes replace those of the
// environment.
func checkConfig(changes testbed.Config) testbed.Config {
	config := testbed.Config{
		"endpoints": []testbed.Config{{"path": keyOnly, "principal": "key"}}, "start_wait": "100ms", "drain": "2s",
	}
	maps.Copy(config, changes)
	return config
}

// startAuthzd starts a sidecar at the socket of that name and waits until it is ready.
func (env *environment) startAuthzd(name string, changes testbed.Config) (*testbed.Process, error) {
	ctx := context.Background()
	p, err := env.StartAuthzd(ctx, name, checkConfig(changes))
	if err != nil {
		return nil, err
	}
	return p, awaitReady(ctx, p)
}

// awaitReady waits until authzd, or the module in an Envoy, is ready.
func awaitReady(ctx context.Context, p *testbed.Process) error {
	return p.Await(ctx, func() error { return testbed.Probe(ctx, p.Admin()+"/readyz") })
}

// ownAuthzd is startAuthzd for one test.
func (env *environment) ownAuthzd(t *testing.T, name string, changes testbed.Config) *testbed.Process {
	t.Helper()
	p, err := env.startAuthzd(name, changes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Shutdown(testbed.Patience) })
	return p
}

// eventually waits until try succeeds.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	if err := testbed.Until(t.Context(), try); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func dialUnix(path string) error {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	return conn.Close()
}
