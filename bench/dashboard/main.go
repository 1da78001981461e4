// Command dashboard draws panels of monitoring/dashboard.json with real data, as the pictures of docs/dashboard.md.
//
// It runs keyd, authzd, a real Envoy and a real Prometheus on loopback, sends requests through Envoy, revokes a key every two
// seconds, and stops keyd and then authzd for a while. Then it sends the queries of the dashboard to Prometheus, as Grafana does.
// It runs in the root of the repository and takes three minutes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/phantomrouter/phantom-authz/bench"
	"github.com/phantomrouter/phantom-authz/bench/result"
	"github.com/phantomrouter/phantom-authz/envoy"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

var folder = flag.String("into", "docs/dashboard", "folder of the pictures")

// The run, from its start. An outage of keyd longer than the lease, 15 s, shows what authzd does without one.
const (
	length = 150 * time.Second
	warmUp = 15 * time.Second // before the start: the window of a rate, so that the first values are complete
)

// outages are periods in which a program is stopped by SIGSTOP: it holds its connections and answers nothing.
var outages = []outage{
	{program: "keyd", from: 40 * time.Second, to: 70 * time.Second},
	{program: "authzd", from: 100 * time.Second, to: 120 * time.Second},
}

type outage struct {
	program  string
	from, to time.Duration
}

func main() {
	flag.Parse()
	err := testbed.Run(context.Background(), draw, "cmd/keyd", "cmd/authzd", "envoy/echo")
	if err != nil {
		fmt.Fprintln(os.Stderr, "dashboard:", err)
		os.Exit(1)
	}
}

func draw(tb *testbed.Testbed) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	panels, err := readPanels("monitoring/dashboard.json")
	if err != nil {
		return err
	}
	s := &stack{Testbed: tb, programs: map[string]*testbed.Process{}}
	if err := s.start(ctx); err != nil {
		return err
	}
	start := time.Now().Add(warmUp)
	if err := s.run(ctx, start); err != nil {
		return err
	}
	if err := os.MkdirAll(*folder, 0o755); err != nil {
		return err
	}
	for _, title := range drawn {
		chart, err := s.chart(ctx, panels, title, start)
		if err != nil {
			return fmt.Errorf("%s: %w", title, err)
		}
		picture, err := chart.SVG()
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(*folder, chart.File), picture, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// chart draws one panel.
func (s *stack) chart(ctx context.Context, panels map[string]panel, title string, start time.Time) (result.Chart, error) {
	p, ok := panels[title]
	if !ok {
		return result.Chart{}, fmt.Errorf("the dashboard has no such panel")
	}
	c := result.Chart{File: fileName(title), Title: title + ", " + units[p.FieldConfig.Defaults.Unit]}
	for _, o := range outages {
		c.Periods = append(c.Periods, result.Period{From: o.from.Minutes(), To: o.to.Minutes()})
	}
	for _, target := range p.Targets {
		lines, err := s.lines(ctx, target, start)
		if err != nil {
			return c, err
		}
		c.Lines = append(c.Lines, lines...)
	}
	c.Lines = greatest(c.Lines)
	c.Log = p.FieldConfig.Defaults.Custom.ScaleDistribution.Type == "log"
	return c, nil
}

// stack is the programs.
type stack struct {
	*testbed.Testbed
	programs     map[string]*testbed.Process // that an outage stops
	url          string                      // of Envoy
	prometheus   string                      // URL
	keys         []string                    // that the requests present
	account      string
	envoyMonitor string
}

func (s *stack) start(ctx context.Context) error {
	keyd, err := s.StartKeyd(ctx, bench.Quiet())
	if err != nil {
		return err
	}
	authzd, err := s.StartAuthzd(ctx, "authzd", bench.Quiet())
	if err != nil {
		return err
	}
	s.programs["keyd"], s.programs["authzd"] = keyd, authzd
	credentials, err := s.Seed(ctx)
	if err != nil {
		return err
	}
	s.account = credentials.Account
	s.keys = []string{credentials.Plain, credentials.Chat, credentials.Revoked, credentials.Terminated, ""}
	if err := s.startEnvoy(ctx); err != nil {
		return err
	}
	return s.startPrometheus(ctx)
}

func (s *stack) startEnvoy(ctx context.Context) error {
	program, err := envoy.Find(ctx, envoy.Newest, os.Stderr)
	if err != nil {
		return err
	}
	a, err := testbed.FreeAddresses(4)
	if err != nil {
		return err
	}
	if _, err := s.Start("echo", s.Command(ctx, "echo", "-listen", a[3])); err != nil {
		return err
	}
	s.url, s.envoyMonitor = "http://"+a[0], a[1]
	text, err := envoy.Render(envoy.Addresses{
		Listener: "tcp://" + a[0], Monitor: "tcp://" + a[1], Admin: "tcp://" + a[2], Upstream: "tcp://" + a[3],
		Authz: "unix://" + s.Socket("authzd"), Owners: "unix://" + s.Socket("owners"),
	})
	if err != nil {
		return err
	}
	file := s.File("envoy.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	if _, err := s.Start("envoy", command(ctx, program, envoy.Args(file)...)); err != nil {
		return err
	}
	return s.Await(ctx, "envoy", func() error { return testbed.Probe(ctx, "http://"+a[2]+"/ready") })
}

// interrupt stops the programs for their outages.
func (s *stack) interrupt(ctx context.Context, start time.Time) error {
	for _, o := range outages {
		if err := wait(ctx, time.Until(start.Add(o.from))); err != nil {
			return err
		}
		if err := s.programs[o.program].Signal(syscall.SIGSTOP); err != nil {
			return err
		}
		waited := wait(ctx, time.Until(start.Add(o.to)))
		if err := errors.Join(waited, s.programs[o.program].Signal(syscall.SIGCONT)); err != nil {
			return err
		}
	}
	return nil
}
