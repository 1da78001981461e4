package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/config"
	"github.com/phantomrouter/phantom-authz/pkg/daemon"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/postgres"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/sqlite"
	"github.com/phantomrouter/phantom-authz/pkg/secretfile"
)

// opener opens a store.
type opener func(ctx context.Context) (keystore.Store, error)

// storeOf returns what opens the store of the configuration.
func storeOf(cfg *config.Keyd, log *zap.Logger) (opener, error) {
	if !cfg.OnPostgres() {
		return func(ctx context.Context) (keystore.Store, error) {
			return sqlite.Open(ctx, cfg.SQLitePath(), sqlite.Options{Log: log})
		}, nil
	}
	opts := postgres.Options{Unknown: unknown(cfg)}
	if path := string(cfg.StorePasswordFile); path != "" {
		file, err := secretfile.Open(path, log)
		if err != nil {
			return nil, fmt.Errorf("store_password_file: %w", err)
		}
		opts.Password = file.Get
	}
	return func(ctx context.Context) (keystore.Store, error) { return postgres.Open(ctx, cfg.Store, opts) }, nil
}

// openPause is the time between two attempts to open the store. Larger delays the start; smaller
// costs connections and log lines of the database.
const openPause = time.Second

// openReachable opens the store and waits while its database is unreachable. It returns any other
// error, because waiting would not help.
func openReachable(ctx context.Context, rt *daemon.Runtime, open opener) (keystore.Store, error) {
	waiting := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "phantom_keyd_store_waiting",
		Help: "Whether the start waits for an unreachable database (1).",
	})
	rt.Metrics.MustRegister(waiting)
	defer waiting.Set(0)
	store, err := open(ctx)
	if !errors.Is(err, keystore.ErrUnreachable) {
		return store, err
	}
	rt.Log.Warn("database unreachable: not ready until it can be reached", zap.Error(err))
	rt.Starting("waiting for the database, which cannot be reached")
	waiting.Set(1)
	for errors.Is(err, keystore.ErrUnreachable) {
		select {
		case <-time.After(openPause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		store, err = open(ctx)
	}
	if err == nil {
		rt.Log.Info("database reached")
	}
	return store, err
}

// unknown returns how long a sidecar that the store does not have on record may use its cache: at most
// a lease and the longest stale time.
func unknown(cfg *config.Keyd) time.Duration {
	return cfg.Lease.Duration + cfg.LongestMaxStale.Duration
}

// raiseUnknown applies the times of a reloaded configuration to the store.
func raiseUnknown(store keystore.Store, cfg *config.Keyd) {
	if s, ok := store.(*postgres.Store); ok {
		s.RaiseUnknown(unknown(cfg))
	}
}

// newEpoch begins a new epoch, because sidecars may exist that the restored copy does not have on
// record. It does not wait for an unreachable database.
func newEpoch(ctx context.Context, rt *daemon.Runtime, cfg *config.Keyd) error {
	open, err := storeOf(cfg, rt.Log)
	if err != nil {
		return err
	}
	store, err := open(ctx)
	if err != nil {
		return err
	}
	head, err := store.NewEpoch(ctx, unknown(cfg))
	if err = errors.Join(err, store.Close()); err != nil {
		return err
	}
	_, err = fmt.Printf("new epoch %s at revision %d; no change is effective before %s\n",
		head.Epoch, head.Revision, head.NotBefore.UTC().Format(time.RFC3339))
	return err
}
