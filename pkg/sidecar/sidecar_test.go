package sidecar

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/phantomrouter/phantom-authz/pkg/config"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/daemon"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// A panic in the cache's goroutine would end the process.
func TestPanicOfResolveIsAnError(t *testing.T) {
	core, log := observer.New(zap.DebugLevel)
	registry, panics := prometheus.NewRegistry(), prometheus.NewCounter(prometheus.CounterOpts{Name: "panics_total"})
	registry.MustRegister(panics)
	k := &keyAPI{rt: &daemon.Runtime{Log: zap.New(core)}, panics: panics} // without a client
	resolved, err := k.Resolve(t.Context(), make([]credential.Digest, 1))
	if err == nil || len(resolved.Results) > 0 || log.Len() != 1 {
		t.Errorf("%+v, %v, %d lines", resolved, err, log.Len())
	}
	families, err := registry.Gather()
	if err != nil || families[0].GetMetric()[0].GetCounter().GetValue() != 1 {
		t.Errorf("counted %v: %v", families, err)
	}
}

// load returns a configuration of the module. The text is more of its fields.
func load(t *testing.T, url, more string) *config.Authzd {
	t.Helper()
	cfg, _, err := config.LoadModule(fmt.Appendf(nil, `{"listen":{"admin":"tcp://127.0.0.1:0"},"key_api":{"url":%q},"drain":"5s"%s}`, url, more))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// run runs a sidecar without a front until the test ends.
func run(t *testing.T, cfg *config.Authzd) (s *Sidecar, stop func()) {
	t.Helper()
	return runLogging(t, cfg, io.Discard)
}

// runLogging is run with a log.
func runLogging(t *testing.T, cfg *config.Authzd, log io.Writer) (s *Sidecar, stop func()) {
	t.Helper()
	p, err := daemon.Embed(daemon.Program[*config.Authzd]{
		Name:         "authzd",
		Metrics:      Metrics,
		Load:         func(string) (*config.Authzd, error) { return cfg, nil },
		Settings:     Settings,
		NeedsRestart: config.NeedsRestart[config.Authzd],
		Start: func(_ context.Context, rt *daemon.Runtime, cfg *config.Authzd) (func(*config.Authzd) error, error) {
			var err error
			if s, err = New(rt, cfg); err != nil {
				return nil, err
			}
			return s.Reload, nil
		},
	}, "", log)
	if err != nil {
		t.Fatal(err)
	}
	return s, p.Stop
}

// A checker of other rules keeps them when the configuration is reloaded.
func TestNewCheckerHasItsOwnRules(t *testing.T) {
	defer goleak.VerifyNone(t)
	down := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
	defer down.Close()
	url := down.URL
	s, stop := run(t, load(t, url, ""))
	defer stop()
	other, err := s.NewChecker(load(t, url, `,"shadow":true`))
	if err != nil {
		t.Fatal(err)
	}
	if other.Metrics() != s.Checker.Metrics() {
		t.Error("the metrics are not shared")
	}
	decision := func(c *extauthz.Checker) string {
		return c.Check(t.Context(), &extauthz.Request{}).Meta.Decision
	}
	if decision(other) != "allow" || decision(s.Checker) != "deny" {
		t.Errorf("decisions %s and %s", decision(other), decision(s.Checker))
	}
	if err := s.Reload(load(t, url, "")); err != nil {
		t.Fatal(err)
	}
	if decision(other) != "allow" {
		t.Error("a reload changed the rules of another checker")
	}
	if err := s.Reload(load(t, url, `,"shadow":true`)); err != nil || decision(s.Checker) != "allow" {
		t.Errorf("a reload did not change its own rules: %v", err)
	}
}

// Shadow mode is logged at the start and after a reload.
func TestShadowModeIsLogged(t *testing.T) {
	defer goleak.VerifyNone(t)
	down := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
	defer down.Close()
	read, write := io.Pipe()
	lines := bufio.NewScanner(read)
	awaitLine := func(text string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), text) {
				return
			}
		}
		t.Errorf("the log has no further line %q", text)
	}
	s, stop := runLogging(t, load(t, down.URL, `,"shadow":true`), write)
	awaitLine("shadow mode is on")
	if err := s.Reload(load(t, down.URL, `,"shadow":true`)); err != nil {
		t.Error(err)
	}
	awaitLine("shadow mode is on")
	go func() { _, _ = io.Copy(io.Discard, read) }() // until the pipe is closed
	stop()
	_ = write.Close()
}
