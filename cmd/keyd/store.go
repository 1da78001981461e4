package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/config"
	"github.com/phantomrouter/phantom-authz/pkg/daemon"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/sqlite"
)

func openStore(ctx context.Context, cfg *config.Keyd) (keystore.Store, error) {
	return sqlite.Open(ctx, cfg.SQLitePath(), sqlite.Options{})
}

// newEpoch begins a new epoch. Sidecars may exist that the copy does not know; each
// has at most a lease and the longest stale time left.
func newEpoch(ctx context.Context, _ *daemon.Runtime, cfg *config.Keyd) error {
	store, err := openStore(ctx, cfg)
	if err != nil {
		return err
	}
	head, err := store.NewEpoch(ctx, cfg.Lease+cfg.LongestMaxStale)
	if err = errors.Join(err, store.Close()); err != nil {
		return err
	}
	_, err = fmt.Printf("new epoch %s at revision %d; no change is effective before %s\n",
		head.Epoch, head.Revision, head.NotBefore.UTC().Format(time.RFC3339))
	return err
}
