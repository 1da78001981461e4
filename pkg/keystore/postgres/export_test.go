package postgres

import (
	"context"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore/sqlstore"
)

// Advance moves the server's clock for this store.
func (s *Store) Advance(d time.Duration) { s.skew.Add(int64(d)) }

// Skew returns how far the clock was moved.
func (s *Store) Skew() time.Duration { return time.Duration(s.skew.Load()) }

// Hold stops in the middle of a change until it is released.
func (s *Store) Hold(ctx context.Context, held chan<- struct{}, release <-chan struct{}) error {
	return s.Mutate(ctx, "", func(t *sqlstore.Tx) error {
		t.Exec("UPDATE head SET revision = revision + 1")
		t.Exec("UPDATE head SET revision = revision - 1")
		close(held)
		<-release
		return t.Err
	})
}
