package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/phantomrouter/phantom-authz/envoy"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// stack is the demo's programs. Addresses are HOST:PORT.
type stack struct {
	*testbed.Testbed
	bin              string
	module           bool // the Envoy module in place of authzd
	port             int  // Envoy's
	envoyAdmin, echo string
	envoyMonitor     string
	checkAdmin       string // URL of the admin listener of authzd or the module
	keyd             *testbed.Process
}

func newStack(bin string, work *workdir, port int) (*stack, error) {
	addresses, err := testbed.FreeAddresses(3)
	if err != nil {
		return nil, err
	}
	tb, err := testbed.At(bin, work.dir, work.run)
	return &stack{Testbed: tb, bin: bin, port: port, envoyAdmin: addresses[0], echo: addresses[1], envoyMonitor: addresses[2]}, err
}

func (s *stack) url() string { return fmt.Sprintf("http://localhost:%d", s.port) }

// prepare starts the programs, each when the one before is ready, and keyd's data in between. It tries the examples and
// reports ready.
func (s *stack) prepare(ctx context.Context, envoyPath string, out *console) error {
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	if err := s.startKeyd(ctx, out); err != nil {
		return err
	}
	credentials, err := s.Seed(ctx)
	if err != nil {
		return err
	}
	if !s.module {
		if err := s.startAuthzd(ctx, out); err != nil {
			return err
		}
	}
	if err := s.start(ctx, out, "echo", s.Command(context.Background(), "echo", "-listen", s.echo), "http://"+s.echo+"/"); err != nil {
		return err
	}
	if err := s.startEnvoy(ctx, envoyPath, out); err != nil {
		return err
	}
	select {
	case <-time.After(time.Until(credentials.Expiry)):
	case <-ctx.Done():
		return ctx.Err()
	}
	variables := s.variables(credentials)
	if err := os.WriteFile(s.File("demo.env"), variables.shell(), 0o600); err != nil {
		return err
	}
	return s.showExamples(ctx, variables, out)
}

// drain limits a graceful shutdown. It must be shorter than a program's part of stopTimeout.
const drain = "2s"

func (s *stack) startKeyd(ctx context.Context, out *console) (err error) {
	out.Say("starting keyd")
	s.keyd, err = s.StartKeyd(ctx, testbed.Config{
		"listen": testbed.Config{
			"sidecars": "unix://" + s.Socket("sidecars"), "operators": "tcp://127.0.0.1:0",
			"owners": "unix://" + s.Socket("owners"), "admin": "tcp://127.0.0.1:0",
		},
		"drain": drain, "log": testbed.Config{"level": "info"},
	})
	return err
}

func (s *stack) startAuthzd(ctx context.Context, out *console) (err error) {
	out.Say("starting authzd")
	authzd, err := s.StartAuthzd(ctx, "authzd", testbed.Config{"drain": drain, "log": testbed.Config{"level": "info"}})
	if err != nil {
		return err
	}
	s.checkAdmin = authzd.Admin()
	return s.ready(ctx, "authzd", s.checkAdmin+"/readyz")
}

func (s *stack) startEnvoy(ctx context.Context, path string, out *console) error {
	// An Envoy would share the port with another Envoy, which would receive half of the requests.
	listener, err := localhost(s.port, listenTCP)
	if err != nil {
		return err
	}
	config, err := s.envoyConfig(envoy.Addresses{
		Listener: listener,
		Monitor:  "tcp://" + s.envoyMonitor,
		Admin:    "tcp://" + s.envoyAdmin,
		Owners:   "unix://" + s.Socket("owners"),
		Upstream: "tcp://" + s.echo,
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.File("envoy.yaml"), config, 0o600); err != nil {
		return err
	}
	log, err := os.OpenFile(s.File("envoy.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	cmd := exec.Command(path, envoy.Args(s.File("envoy.yaml"))...)
	cmd.Stdout = io.MultiWriter(log, out.Writer()) // the access log
	cmd.Env = append(os.Environ(), envoy.ModuleEnv(s.bin)...)
	if err := s.start(ctx, out, "envoy", cmd, "http://"+s.envoyAdmin+"/ready"); err != nil || !s.module {
		return err
	}
	return s.ready(ctx, "the Envoy module", s.checkAdmin+"/readyz")
}

// envoyConfig returns Envoy's configuration with authzd or the module.
func (s *stack) envoyConfig(a envoy.Addresses) ([]byte, error) {
	if !s.module {
		a.Authz = "unix://" + s.Socket("authzd")
		return envoy.Render(a)
	}
	admin, err := testbed.FreeAddresses(1)
	if err != nil {
		return nil, err
	}
	s.checkAdmin = "http://" + admin[0]
	return envoy.RenderModule(a, map[string]any{
		"listen":  testbed.Config{"admin": "tcp://" + admin[0]},
		"key_api": testbed.Config{"url": "unix://" + s.Socket("sidecars"), "token_file": s.File("key-api.token")},
		"drain":   drain,
		"log":     testbed.Config{"level": "info"},
	})
}

// start starts a program and waits until its URL responds with 200.
func (s *stack) start(ctx context.Context, out *console, name string, cmd *exec.Cmd, url string) error {
	out.Say("starting %s", name)
	if _, err := s.Start(name, cmd); err != nil {
		return err
	}
	return s.ready(ctx, name, url)
}

func (s *stack) ready(ctx context.Context, name, url string) error {
	return s.Await(ctx, name, func() error { return testbed.Probe(ctx, url) })
}

// watch reports every program that exits, until ctx ends. The others keep running, so that the user can see what still
// works.
func (s *stack) watch(ctx context.Context, out *console) {
	exited := make(chan *testbed.Process)
	for _, p := range s.Processes() {
		go func() {
			<-p.Exited()
			select {
			case exited <- p:
			case <-ctx.Done():
			}
		}()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-exited:
			out.Say("%s exited: %s. The others keep running. Log: .demo/%s.log", p.Name, p.Status(), p.Name)
		}
	}
}

func (s *stack) stop(out *console) {
	out.Say("stopping")
	s.Stop(stopTimeout)
}
