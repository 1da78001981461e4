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
// Nothing depends on a session: there are no prepared statements and no session settings. So the store works through a
// pooler in transaction mode. Notifications do not pass through one; other processes' changes are then seen when the server
// reads the head each second.
package postgres

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

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
	db      *sql.DB        // over pool
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
	s := &Store{
		pool: pool, db: stdlib.OpenDBFromPool(pool),
		gate: sqlstore.NewGate(min(writers, int(conf.MaxConns)/2)),
	}
	s.RaiseUnknown(opts.Unknown)
	var secret []byte
	if err = migrate(ctx, s.db); err == nil {
		err = s.db.QueryRowContext(ctx, "SELECT cursor_secret FROM head").Scan(&secret)
	}
	if err != nil {
		_ = s.db.Close()
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
	err := s.db.Close()
	s.pool.Close()
	return err
}

// Name implements sqlstore.Engine.
func (s *Store) Name() string { return "postgres" }

// Reader implements sqlstore.Engine.
func (s *Store) Reader() sqlstore.Querier { return retrying{conn{s.db}} }

// Read implements sqlstore.Engine.
func (s *Store) Read(ctx context.Context, do func(q sqlstore.Querier) error) error {
	opts := &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
	tx, err := s.db.BeginTx(ctx, opts)
	if mayRetry(ctx, err) {
		tx, err = s.db.BeginTx(ctx, opts)
	}
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // nothing was written
	return do(conn{tx})
}

const (
	// writers is how many mutations of this process may run at a time. One holds the head's lock while a second begins its
	// transaction. Smaller costs a round trip between two mutations; with larger, mutations wait at the lock, where lanes
	// have no effect, and use connections that reads need.
	writers = 2
	// mutateTimeout bounds one mutation, including the wait for those before it. Smaller refuses changes under load; larger
	// lets callers wait longer for an error.
	mutateTimeout = 10 * time.Second
	// limits are settings of the server for one transaction. They bound its waits, and how long a stopped process delays
	// others. A commit must be on disk, also if the role's default is off.
	limits = `SELECT set_config('statement_timeout', ?, true), set_config('lock_timeout', ?, true),
		set_config('idle_in_transaction_session_timeout', '2s', true),
		set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true), ` + plans
	// plans: a mutation finds all its rows by an index. Without statistics for a table that has just grown, the planner might
	// read all of it, and compile the query first.
	plans   = `set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true)`
	channel = "phantom_authz"
)

// Mutate implements sqlstore.Engine.
func (s *Store) Mutate(ctx context.Context, lane sqlstore.Lane, actor string, do func(t *sqlstore.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, mutateTimeout)
	defer cancel()
	if err := s.gate.Enter(ctx, lane); err != nil {
		return err
	}
	defer s.gate.Leave()
	for {
		begun, err := s.attempt(ctx, actor, do)
		if begun || !mayRetry(ctx, err) {
			return err
		}
	}
}

// attempt reports whether do has begun. If not, nothing was changed, and another attempt may follow.
func (s *Store) attempt(ctx context.Context, actor string, do func(t *sqlstore.Tx) error) (begun bool, err error) {
	pinned, err := s.db.Conn(ctx)
	if err != nil {
		return false, err
	}
	defer func() { _ = pinned.Close() }() // returns it to the pool
	sqlTx, err := pinned.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return false, err
	}
	defer func() { _ = sqlTx.Rollback() }() // no effect after the commit
	t := &sqlstore.Tx{Conn: txConn{conn{sqlTx}, pinned}, Ctx: ctx, Actor: actor}
	if err := s.lock(t); err != nil {
		return false, err
	}
	return true, s.run(t, sqlTx, do)
}

// run runs do and commits.
func (s *Store) run(t *sqlstore.Tx, sqlTx *sql.Tx, do func(t *sqlstore.Tx) error) error {
	if err := errors.Join(do(t), t.Err); err != nil {
		return err
	}
	if t.Moved {
		t.Exec("SELECT pg_notify(?, '')", channel)
	}
	if t.Err != nil {
		return t.Err
	}
	if err := sqlTx.Commit(); err != nil {
		return fmt.Errorf("commit with unknown outcome: %w", err)
	}
	if t.Moved {
		s.changed.Wake()
	}
	return nil
}

// lock waits for the mutations before this one and then reads the clock, so that times are in the order of the commits.
func (s *Store) lock(t *sqlstore.Tx) error {
	t.Exec(limits, milliseconds(statementTimeout), milliseconds(lockTimeout))
	t.Exec("SELECT FROM head FOR NO KEY UPDATE")
	if t.Err != nil {
		return t.Err
	}
	h, err := s.headIn(t)
	if err != nil {
		return err
	}
	t.Now, t.LeaseNow = h.Now, h.Now
	if err = h.check(); !errors.Is(err, errTimeline) {
		return err
	}
	// A random epoch: a backup that is restored twice may get the same timeline twice.
	t.Exec("UPDATE head SET epoch = ?, timeline = ?", rand.Text(), h.current)
	t.NotBefore(time.Duration(s.unknown.Load()))
	return t.Err
}
