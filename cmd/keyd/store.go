package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/config"
	"github.com/phantomrouter/phantom-authz/pkg/daemon"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/postgres"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/sqlite"
	"github.com/phantomrouter/phantom-authz/pkg/secretfile"
)

func openStore(ctx context.Context, cfg *config.Keyd, log *zap.Logger) (keystore.Store, error) {
	if !cfg.OnPostgres() {
		return sqlite.Open(ctx, cfg.SQLitePath(), sqlite.Options{Log: log})
	}
	opts := postgres.Options{Unknown: unknown(cfg)}
	if path := string(cfg.StorePasswordFile); path != "" {
		file, err := secretfile.Open(path, log)
		if err != nil {
			return nil, fmt.Errorf("store_password_file: %w", err)
		}
		opts.Password = file.Get
	}
	return postgres.Open(ctx, cfg.Store, opts)
}

// unknown is how long a sidecar that the store does not know may go on: each has at
// most a lease and the longest stale time left.
func unknown(cfg *config.Keyd) time.Duration { return cfg.Lease + cfg.LongestMaxStale }

// reloaded lets the store know what sidecars may be given from now on.
func reloaded(store keystore.Store, cfg *config.Keyd) {
	if s, ok := store.(*postgres.Store); ok {
		s.RaiseUnknown(unknown(cfg))
	}
}

// newEpoch begins a new epoch. Sidecars may exist that the copy does not know.
func newEpoch(ctx context.Context, rt *daemon.Runtime, cfg *config.Keyd) error {
	store, err := openStore(ctx, cfg, rt.Log)
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
