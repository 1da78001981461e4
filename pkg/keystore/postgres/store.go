// Package postgres keeps the key API's store in a PostgreSQL database, version 13 or newer, that several processes share.
//
// Each mutation locks the head row first. So mutations of all processes follow one another, and revisions are dense and in
// the order of the commits. The server ends the transaction of a process that stops in the middle of a mutation within
// seconds. Reads take no lock. All reads go to the primary: a standby is refused when a connection is made and, because a
// server may become one, with each head that is read.
//
// The server's timeline changes when a standby is promoted or a backup is restored to a point in time. It is part of the
// epoch and on record. The statement that reads the head reads it too, so that no result of an unknown server is used. A
// timeline that is not the one on record begins a new epoch automatically. The new server may lack the last commits of the old
// one, leases included, so every change then waits for as long as an unknown sidecar may go on (Options.Unknown). The operator
// who promotes a standby must make sure that the old primary no longer answers.
//
// Mutations that wait share a transaction (see sqlstore). Its statements are sent in few messages: one with the lock and the
// first query, one with each further query, and one with the last writes and the commit. So a change alone takes four round
// trips, one of them before the lock, and the head is locked for two and a sync of the disk.
//
// Nothing depends on a session: there are no prepared statements and no session settings. So the store works through a
// pooler in transaction mode. Notifications do not pass through one; other processes' changes are then seen when the server
// reads the head each second.
package postgres

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

// Options are the options of Open.
type Options struct {
	// Password is called for each new connection; nil sends no password.
	Password func() credential.Secret
	// Unknown is how long a sidecar that the store has lost may act on what it has cached: the longest lease plus the longest
	// stale time.
	Unknown time.Duration
}

// Store is a keystore.Store in a PostgreSQL database.
type Store struct {
	*sqlstore.Core
	pool    *pgxpool.Pool
	gate    *sqlstore.Gate // before Mutate
	unknown atomic.Int64   // Options.Unknown and RaiseUnknown, as a time.Duration
	changed sqlstore.Broadcast
	skew    atomic.Int64 // what tests add to the server's clock

	cancel  context.CancelFunc
	listens sync.WaitGroup
}

var _ keystore.Store = (*Store)(nil)

// Open connects to the database that the URL names and brings its schema up to date. Several processes may do so at a time.
// The error names the database and the mistake, and no password.
func Open(ctx context.Context, url string, opts Options) (*Store, error) {
	made := &connections{}
	conf, err := configure(url, opts.Password, made)
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, conf)
	if err != nil {
		return nil, explain(conf, err)
	}
	made.pool.Store(pool)
	s := &Store{pool: pool, gate: sqlstore.NewGate(min(writers, int(conf.MaxConns)/2))}
	s.RaiseUnknown(opts.Unknown)
	var secret []byte
	if err = migrate(ctx, pool); err == nil {
		err = pool.QueryRow(ctx, "SELECT cursor_secret FROM head").Scan(&secret)
	}
	if err != nil {
		pool.Close()
		return nil, explain(conf, err)
	}
	made.limited.Store(true)
	s.Core = sqlstore.NewCore(s, queries, secret)
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.listens.Go(func() { s.listen(background) })
	return s, nil
}

// RaiseUnknown raises Options.Unknown after a reload. It never lowers it, because sidecars may hold leases that they were given
// before.
func (s *Store) RaiseUnknown(d time.Duration) {
	for known := s.unknown.Load(); int64(d) > known && !s.unknown.CompareAndSwap(known, int64(d)); known = s.unknown.Load() {
	}
}

// Ping implements keystore.Store.
func (s *Store) Ping(ctx context.Context) error {
	_, err := s.Head(ctx)
	return err
}

// Close implements keystore.Store.
func (s *Store) Close() error {
	s.cancel()
	s.Stop()
	s.listens.Wait()
	s.pool.Close()
	return nil
}

// Name implements sqlstore.Engine.
func (s *Store) Name() string { return "postgres" }

// Reader implements sqlstore.Engine.
func (s *Store) Reader() sqlstore.Querier { return retrying{conn{s.pool}} }

// Read implements sqlstore.Engine.
func (s *Store) Read(ctx context.Context, do func(q sqlstore.Querier) error) error {
	opts := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	tx, err := s.pool.BeginTx(ctx, opts)
	if mayRetry(ctx, err) {
		tx, err = s.pool.BeginTx(ctx, opts)
	}
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // nothing was written
	return do(conn{tx})
}
