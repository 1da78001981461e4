package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"time"

	"github.com/phantomrouter/phantom-authz/bench"
	"github.com/phantomrouter/phantom-authz/envoy"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// proxies are a testbed with an Envoy for each variant.
type proxies struct {
	*testbed.Testbed
	program string   // path of Envoy
	keys    []string // of keyd
	all     []*proxy // the baseline is the first one

	none, module, authzd *proxy
}

// proxy is an Envoy with a way to authorize.
type proxy struct {
	*bench.Variant[round]
	envoy   *testbed.Process
	sidecar *testbed.Process // nil: none
	load    load
}

// start starts keyd, authzd and all Envoys, and sends each key once to each.
func (p *proxies) start(ctx context.Context) (err error) {
	if p.program, err = envoy.Find(ctx, *version, os.Stderr); err != nil {
		return err
	}
	p.Wrapper = []string{"taskset", "-c", otherProcessor}
	if _, err := p.StartKeyd(ctx, bench.Quiet()); err != nil {
		return err
	}
	const sidecar, constant = "authzd", "constant"
	authzd, err := p.StartAuthzd(ctx, sidecar, bench.Quiet())
	if err != nil {
		return err
	}
	stock, err := p.Start(constant, p.Command(ctx, "check", "-serve", p.Socket(constant)))
	if err != nil {
		return err
	}
	minted, err := bench.MintCached(ctx, p.Testbed, sidecar, *keyCount)
	if err != nil {
		return err
	}
	for _, key := range minted {
		p.keys = append(p.keys, key.Reveal())
	}
	if p.none, err = p.startEnvoy(ctx, "no authorization", authorization{}, nil); err != nil {
		return err
	}
	log, err := accessLog()
	if err != nil {
		return err
	}
	if _, err = p.startEnvoy(ctx, "no authorization, access log", log, nil); err != nil {
		return err
	}
	if _, err = p.startEnvoy(ctx, "api_key_auth of Envoy", apiKeyAuth(*keyCount), nil); err != nil {
		return err
	}
	if p.module, err = p.startModule(ctx); err != nil {
		return err
	}
	if _, err = p.startExtAuthz(ctx, "ext_authz, constant answer", constant, stock); err != nil {
		return err
	}
	p.authzd, err = p.startExtAuthz(ctx, "ext_authz with authzd", sidecar, authzd)
	return err
}

func (p *proxies) startExtAuthz(ctx context.Context, name, socket string, sidecar *testbed.Process) (*proxy, error) {
	a, err := extAuthz(p.Socket(socket))
	if err != nil {
		return nil, err
	}
	return p.startEnvoy(ctx, name, a, sidecar)
}

// startModule builds the module and starts an Envoy with it.
func (p *proxies) startModule(ctx context.Context) (*proxy, error) {
	if err := testbed.BuildModule(ctx, p.Dir); err != nil {
		return nil, err
	}
	a, err := module(p.ModuleConfig(bench.Quiet()))
	if err != nil {
		return nil, err
	}
	return p.startEnvoy(ctx, "module", a, nil)
}

// startEnvoy starts the Envoy of a variant, and waits until it allows each key.
func (p *proxies) startEnvoy(ctx context.Context, name string, a authorization, sidecar *testbed.Process) (*proxy, error) {
	addresses, err := testbed.FreeAddresses(2)
	if err != nil {
		return nil, err
	}
	text, err := configuration(addresses[0], addresses[1], a)
	if err != nil {
		return nil, err
	}
	process := fmt.Sprintf("envoy-%d", len(p.all))
	file := p.File(process + ".yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	keys := a.keys
	if keys == nil {
		keys = p.keys
	}
	v := &proxy{sidecar: sidecar, load: load{Address: addresses[0], Keys: keys, Connections: *connections, Duration: *duration}}
	v.Variant = &bench.Variant[round]{Name: name, Run: func() (round, error) { return v.measure(ctx) }}
	cmd := exec.Command("taskset", "-c", envoyProcessor, p.program,
		"-c", file, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning")
	if a.log != nil {
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			return nil, err
		}
		defer func() { _ = null.Close() }()
		cmd.Stdout = null // the log would have gigabytes
	}
	cmd.Env = append(os.Environ(), envoy.ModuleEnv(p.Dir)...)
	if v.envoy, err = p.Start(process, cmd); err != nil {
		return nil, err
	}
	p.all = append(p.all, v)
	if err := v.envoy.Await(ctx, func() error { return testbed.Probe(ctx, "http://"+addresses[1]+"/ready") }); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for _, key := range keys {
		if err := v.envoy.Await(ctx, func() error { return v.request(ctx, key) }); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return v, nil
}

// request sends one request, which must be answered with 200.
func (v *proxy) request(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second) // the caller retries
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+v.load.Address+requestPath, nil)
	if err != nil {
		return err
	}
	r.Header.Set("authorization", "Bearer "+key)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("answered with %s", response.Status)
	}
	return nil
}
