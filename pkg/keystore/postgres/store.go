// Package postgres keeps the key API's store in a PostgreSQL database, 13 or newer,
// which several processes share.
//
// Each mutation locks the head row first: so one follows the other, whichever
// process makes it, and revisions are dense and in the order of the commits. A
// process that stops in the middle of one is cut off by the server within seconds.
// Reads take no lock. All of them go to the primary: a standby is refused when a
// connection is made and, because a server may become one, with each head that is read.
//
// The server's timeline, which changes when a standby is promoted or a backup is
// restored to a point in time, is part of the epoch, and is on record. It is read by
// the very statement that reads the head: nothing is told of a server before it is known
// which. A timeline that is not the one on record begins a new epoch by itself. The
// new server may lack the last commits of the old one, leases too, so from then on
// every change is held up for as long as a sidecar may go on that nobody knows of
// (Options.Unknown). That an old primary which is cut off answers nobody any more is
// for those to see to who promote another.
//
// Nothing rests on a session: no prepared statements, no session settings. So it
// runs through a pooler in transaction mode too; notifications do not come through
// one, and then other processes' changes are seen when the server looks each second.
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

// Options are what Open may be told.
type Options struct {
	// Password is asked for each new connection; nil means that none is sent.
	Password func() credential.Secret
	// Unknown is how long a sidecar that the store has lost may still act on what it
	// knows: the longest lease and stale time together.
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

// Open connects to the database that the URL names and brings it up to this
// program's schema; many processes may do so at once. The error names the database
// and what is wrong with it, and no password.
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
	s.Core = sqlstore.NewCore(s, secret)
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.listens.Go(func() { s.listen(background) })
	return s, nil
}

// RaiseUnknown raises Options.Unknown: after a reload, sidecars may be given more. It is never
// lowered, because some may hold what they were given before.
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
	// writers is how many mutations of this process may be under way at a time. One holds the head's lock; a
	// second has begun its transaction meanwhile. More would only queue at the lock, where
	// lanes do not matter, and take connections from those who only read.
	writers = 2
	// mutateTimeout bounds one mutation, the wait for those before it included.
	mutateTimeout = 10 * time.Second
	// limits are the server's, for this transaction: nobody waits for longer than that, and
	// a process that was stopped holds the others up for no longer than the last of the
	// timeouts. What is committed must be on disk, whatever the role's default is.
	limits = `SELECT set_config('statement_timeout', ?, true), set_config('lock_timeout', ?, true),
		set_config('idle_in_transaction_session_timeout', '2s', true),
		set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true), ` + plans
	// plans: what a mutation looks for it finds by an index. Of a table that has just grown
	// the planner knows little; it might read it whole, and compile the query first.
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

// attempt reports whether do has begun: if not, nothing was done, and another attempt may follow.
func (s *Store) attempt(ctx context.Context, actor string, do func(t *sqlstore.Tx) error) (begun bool, err error) {
	pinned, err := s.db.Conn(ctx)
	if err != nil {
		return false, err
	}
	defer func() { _ = pinned.Close() }() // back to the pool
	sqlTx, err := pinned.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return false, err
	}
	defer func() { _ = sqlTx.Rollback() }() // of no effect after the commit
	t := &sqlstore.Tx{Conn: writing{conn{sqlTx}, pinned}, Ctx: ctx, Actor: actor}
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
		return fmt.Errorf("commit, whose outcome is unknown: %w", err)
	}
	if t.Moved {
		s.changed.Wake()
	}
	return nil
}

// lock waits for the mutations before this one, and then reads the clock: so times
// follow the order of the commits.
func (s *Store) lock(t *sqlstore.Tx) error {
	t.Exec(limits, milliseconds(statementTimeout), milliseconds(lockTimeout))
	t.Exec("SELECT FROM head FOR NO KEY UPDATE")
	if t.Err != nil {
		return t.Err
	}
	var h head
	if err := t.QueryRowContext(t.Ctx, "SELECT "+headColumns+" FROM head").Scan(h.columns()...); err != nil {
		return err
	}
	t.Now = s.shifted(h.now())
	t.LeaseNow = t.Now
	err := h.check()
	if errors.Is(err, errTimeline) {
		// Not the old epoch with another number: a backup that is restored twice may get
		// the same timeline twice.
		t.Exec("UPDATE head SET epoch = ?, timeline = ?", rand.Text(), h.current)
		t.NotBefore(time.Duration(s.unknown.Load()))
		return t.Err
	}
	return err
}

// shifted is the server's time as tests have moved it.
func (s *Store) shifted(t time.Time) time.Time { return t.Add(time.Duration(s.skew.Load())) }
