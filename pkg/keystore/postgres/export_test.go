package postgres

import (
	"context"
	"encoding/hex"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

// Advance moves the server's clock for this store.
func (s *Store) Advance(d time.Duration) { s.skew.Add(int64(d)) }

// Skew returns how far Advance moved the clock.
func (s *Store) Skew() time.Duration { return time.Duration(s.skew.Load()) }

// Hold blocks in the middle of a mutation until it is released.
func (s *Store) Hold(ctx context.Context, held chan<- struct{}, release <-chan struct{}) error {
	return s.Mutate(ctx, sqlstore.LaneOthers, "", func(t *sqlstore.Tx) error {
		t.Exec("UPDATE head SET revision = revision + 1")
		t.Exec("UPDATE head SET revision = revision - 1")
		close(held)
		<-release
		return t.Err
	})
}

// Waiting returns how many mutations wait, by lane.
func (s *Store) Waiting() (polls, operators, others int) {
	_, waiting := s.gate.State()
	return waiting[sqlstore.LanePolls], s.Joined(sqlstore.LaneOperators), s.Joined(sqlstore.LaneOthers)
}

// Writing returns how many mutations are in flight.
func (s *Store) Writing() int {
	n, _ := s.gate.State()
	return n
}

// Busy uses one connection for that time.
func (s *Store) Busy(ctx context.Context, d time.Duration) error {
	_, err := s.pool.Exec(ctx, "SELECT pg_sleep($1)", d.Seconds())
	return err
}

// Dial makes a connection as the pool does.
var Dial = dialer.DialContext

// DecodeBytea reads a bytea as text.
var DecodeBytea = decodeBytea

// HexBytea is the hex format of bytea.
func HexBytea(b []byte) []byte { return []byte(`\x` + hex.EncodeToString(b)) }
