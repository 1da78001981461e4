package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/phantomrouter/phantom-authz/envoy"
)

// prepare starts the parts, each when the one before answers, seeds the key API
// and says ready.
func (s *stack) prepare(ctx context.Context, p programs, out *console) error {
	ctx, cancel := context.WithTimeout(ctx, prepareTime)
	defer cancel()

	if err := s.start(ctx, out, "keyd", p.keyd, "http://"+s.keydAdmin+"/readyz", nil, "-config", s.home.file("keyd.yaml")); err != nil {
		return err
	}
	credentials, err := s.seed(ctx)
	if err != nil {
		return err
	}
	if err := s.start(ctx, out, "authzd", p.authzd, "http://"+s.authzdAdmin+"/readyz", nil, "-config", s.home.file("authzd.yaml")); err != nil {
		return err
	}
	if err := s.start(ctx, out, "echo", p.echo, "http://"+s.echo+"/", nil, "-listen", s.echo); err != nil {
		return err
	}
	// Envoy would share the port with another Envoy, and take half of its requests.
	if _, err := localhost(s.port, listenTCP); err != nil {
		return err
	}
	args := envoy.Args(s.home.file("envoy.yaml"))
	if err := s.start(ctx, out, "envoy", p.envoy, "http://"+s.envoyAdmin+"/ready", out.Writer(), args...); err != nil {
		return err
	}
	return s.show(ctx, credentials, out)
}

// show writes demo.env, tries the examples and says ready.
func (s *stack) show(ctx context.Context, c credentials, out *console) error {
	select {
	case <-time.After(time.Until(c.expiry)):
	case <-ctx.Done():
		return ctx.Err()
	}
	variables := s.variables(c)
	if err := os.WriteFile(s.home.file("demo.env"), variables.shell(), 0o600); err != nil {
		return err
	}
	examples, err := s.tour(ctx, variables)
	if err != nil {
		return err
	}
	out.Say("ready: %s; Ctrl-C stops it", s.url())
	out.Say("\nTo try in another shell, after\n\n    set -a; . .demo/demo.env; set +a\n")
	for _, example := range examples {
		out.Say("%s", example)
	}
	out.Say("# The operator's side\nbin/keyctl account list\n\nLogs are in .demo/. Envoy's access log:\n")
	return nil
}

// start starts a part and waits until its URL answers 200.
func (s *stack) start(ctx context.Context, out *console, name, path, url string, stdout io.Writer, args ...string) error {
	out.Say("starting %s", name)
	p, err := start(name, path, args, s.home.file(name+".log"), stdout)
	if err != nil {
		return err
	}
	s.parts = append(s.parts, p)
	return s.await(ctx, name+" to be ready", func(ctx context.Context) error { return answers(ctx, url) })
}

// await tries until it succeeds, a part ends, or ctx does.
func (s *stack) await(ctx context.Context, what string, try func(context.Context) error) error {
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		for _, p := range s.parts {
			select {
			case <-p.ended:
				return p.failure()
			default:
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain for %s: %w", what, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func answers(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", url, response.Status)
	}
	return nil
}

// watch names every part that ends, until ctx does. The rest goes on: what then
// still works is worth seeing.
func (s *stack) watch(ctx context.Context, out *console) {
	died := make(chan *part)
	for _, p := range s.parts {
		go func() {
			<-p.ended
			select {
			case died <- p:
			case <-ctx.Done():
			}
		}()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-died:
			out.Say("%s has died: %s. The rest goes on. Its log: .demo/%s.log", p.name, p.how(), p.name)
		}
	}
}

// stop stops the parts, the last one started first, so that each still finds what
// it needs to end well.
func (s *stack) stop(out *console) {
	out.Say("stopping")
	deadline := time.Now().Add(stopTime)
	for _, p := range slices.Backward(s.parts) {
		p.stop(min(time.Until(deadline), stopTime/2))
	}
}
