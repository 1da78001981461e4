package main

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/phantomrouter/phantom-authz/pkg/config"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/daemon"
	"github.com/phantomrouter/phantom-authz/pkg/secretfile"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// link is the way to the key API: a client that a reload replaces.
type link struct {
	rt     *daemon.Runtime
	client atomic.Pointer[sidecarapi.Client]
}

func newLink(rt *daemon.Runtime, cfg config.KeyAPI) (*link, error) {
	l := &link{rt: rt}
	return l, l.reload(cfg)
}

// reload makes a client of the configuration. What is under way ends with the old one.
func (l *link) reload(cfg config.KeyAPI) error {
	options := sidecarapi.Options{URL: cfg.Base(), Timeout: cfg.Timeout}
	if cfg.TokenFile != "" {
		token, err := secretfile.Open(string(cfg.TokenFile), l.rt.Log)
		if err != nil {
			return fmt.Errorf("key_api.token_file: %w", err)
		}
		options.Token = token.Get
	}
	if t := cfg.TLS; t != nil {
		dialer, err := secretfile.NewClient(string(t.CAFile), string(t.CertFile), string(t.KeyFile), l.rt.Log)
		if err != nil {
			return fmt.Errorf("key_api.tls: %w", err)
		}
		options.DialTLS = dialer.DialTLS
	}
	if old := l.client.Swap(sidecarapi.New(options)); old != nil {
		old.Close()
	}
	return nil
}

// Resolve implements keycache.KeyAPI.
func (l *link) Resolve(ctx context.Context, digests []credential.Digest) (sidecarapi.Resolved, error) {
	return l.client.Load().Resolve(ctx, digests)
}

// Changes implements keycache.KeyAPI.
func (l *link) Changes(ctx context.Context, poll sidecarapi.ChangesRequest) (sidecarapi.Changes, error) {
	return l.client.Load().Changes(ctx, poll)
}

// Usage implements usage.KeyAPI.
func (l *link) Usage(ctx context.Context, report sidecarapi.UsageRequest) error {
	return l.client.Load().Usage(ctx, report)
}

func (l *link) close() { l.client.Load().Close() }
