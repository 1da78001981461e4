package sidecar

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/config"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/daemon"
	"github.com/phantomrouter/phantom-authz/pkg/secretfile"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// keyAPI is the client of the key API. A reload replaces the client inside.
type keyAPI struct {
	rt     *daemon.Runtime
	panics prometheus.Counter
	client atomic.Pointer[sidecarapi.Client]
}

func newKeyAPI(rt *daemon.Runtime, cfg config.KeyAPI) (*keyAPI, error) {
	k := &keyAPI{rt: rt, panics: rt.Panics("resolve")}
	return k, k.reload(cfg)
}

// reload makes a client of the configuration. Requests in flight end with the old one.
func (k *keyAPI) reload(cfg config.KeyAPI) error {
	var expiries func() map[string]time.Time
	options := sidecarapi.Options{URL: cfg.Base(), Timeout: cfg.Timeout.Duration}
	if cfg.TokenFile != "" {
		token, err := secretfile.Open(string(cfg.TokenFile), k.rt.Log)
		if err != nil {
			return fmt.Errorf("key_api.token_file: %w", err)
		}
		options.Token = token.Get
	}
	if t := cfg.TLS; t != nil {
		dialer, err := secretfile.NewClient(string(t.CAFile), string(t.CertFile), string(t.KeyFile), k.rt.Log)
		if err != nil {
			return fmt.Errorf("key_api.tls: %w", err)
		}
		options.DialTLS = dialer.DialTLS
		expiries = dialer.Expiries
	}
	k.rt.WatchCertificates("key_api.tls", expiries)
	if old := k.client.Swap(sidecarapi.New(options)); old != nil {
		old.Close()
	}
	return nil
}

var errResolvePanicked = errors.New("resolve panicked")

// Resolve implements keycache.KeyAPI. The cache calls it in a goroutine, where a panic would end the
// process, which may be Envoy: it is an error. Its text is not logged, because it may hold a secret.
func (k *keyAPI) Resolve(ctx context.Context, digests []credential.Digest) (resolved sidecarapi.Resolved, err error) {
	defer func() {
		if value := recover(); value != nil {
			k.panics.Inc()
			k.rt.Log.Error("resolve panicked: its checks are unavailable", zap.String("panic", fmt.Sprintf("%T", value)), zap.Stack("stack"))
			resolved, err = sidecarapi.Resolved{}, errResolvePanicked
		}
	}()
	return k.client.Load().Resolve(ctx, digests)
}

// Changes implements keycache.KeyAPI.
func (k *keyAPI) Changes(ctx context.Context, poll sidecarapi.ChangesRequest) (sidecarapi.Changes, error) {
	return k.client.Load().Changes(ctx, poll)
}

// Usage implements usage.KeyAPI.
func (k *keyAPI) Usage(ctx context.Context, report sidecarapi.UsageRequest) error {
	return k.client.Load().Usage(ctx, report)
}

func (k *keyAPI) close() { k.client.Load().Close() }
