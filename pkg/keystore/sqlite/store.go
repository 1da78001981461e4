// Package sqlite keeps the key API's store in one SQLite file. It uses the pure Go engine modernc.org/sqlite with a
// write-ahead log and synchronous=FULL, so that every acknowledged change survives a power failure.
//
// One goroutine writes over one connection, because SQLite has one writer: no call waits for a lock in the middle of a
// transaction. Polls that arrive together share a transaction, and so do changes, because each commit costs a sync of the
// disk. Reads use a pool of read-only connections, each query in a snapshot that no writer delays.
//
// Times are stored in microseconds. The time of a change and the ends of leases are rounded up, so that no lease on record
// ends before the one that was given. Times from callers, and the times that leases are compared with, are truncated.
//
// One process at a time has the file open: it holds a lock (see lock).
//
// If the database file is deleted or replaced while the store is open, all writes and Ping fail. Reads continue from the
// file that was opened.
//
// Leases, stale times and the wait of a new epoch are counted by the monotonic clock: a step of the wall clock, as after a
// pause of a virtual machine, neither ends nor prolongs them. The store returns them by the wall clock. A step that this
// process has seen is on record, and the next process corrects the times by it when it opens the store. A step while no
// process runs is not seen: leases then end too early by as much as the clock was set forward, or too late by as much as it
// was set back. The same is true of the last seconds before a kill if nothing was written in them.
package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"runtime"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

// Options are the options of Open. The zero Options is right for production.
type Options struct {
	// Now is the wall clock; nil means time.Now.
	Now func() time.Time
	// Elapsed is the monotonic time since some moment; nil means that of Now.
	Elapsed func() time.Duration
	// Log gets an error if the database file is deleted while it is open; nil discards it.
	Log *zap.Logger
	// BusyTimeout is how long to wait for another program's lock on the file; 0 means 5s.
	BusyTimeout time.Duration
}

// Store is a keystore.Store in one SQLite file.
type Store struct {
	*sqlstore.Core
	clock      clock
	writer     *sql.DB // one connection, used by the writer goroutine only
	readers    *sql.DB
	statements map[string]*sql.Stmt // over readers: preparing a query costs more than looking up one digest
	changed    sqlstore.Broadcast
	files      *files
	lock       *os.File // shared, until it is closed

	stepNoted time.Duration  // on record as head.clock_step; used by the writer goroutine only
	gate      *sqlstore.Gate // before jobs
	jobs      chan func()
	stop      chan struct{}
	writes    sync.WaitGroup // the writer goroutine
}

var _ keystore.Store = (*Store)(nil)

// Open opens the database at path. It creates the file with mode 0600 if there is none, in a directory that must exist, and
// brings the schema up to date. The error names the path and the mistake. It is keystore.ErrUnreachable if another process
// has locked the database. Several processes may have it open, as when a new keyd takes over.
func Open(ctx context.Context, path string, opts Options) (*Store, error) {
	path, err := place(path)
	if err != nil {
		return nil, err
	}
	s := &Store{
		clock: newClock(opts), statements: map[string]*sql.Stmt{},
		gate: sqlstore.NewGate(1),
		jobs: make(chan func()),
		stop: make(chan struct{}),
	}
	busy := cmp.Or(opts.BusyTimeout, 5*time.Second)
	var alone bool
	if s.lock, alone, err = lock(ctx, path, busy); err != nil {
		return nil, explain(path, err)
	}
	var secret []byte
	if secret, err = s.connect(ctx, path, busy, alone); err == nil {
		s.files, err = openedFiles(path, cmp.Or(opts.Log, zap.NewNop()))
	}
	err = errors.Join(err, share(s.lock))
	if err != nil {
		return nil, explain(path, errors.Join(err, s.disconnect()))
	}
	s.Core = sqlstore.NewCore(s, queries, secret)
	s.writes.Go(s.write)
	return s, nil
}

// connect returns the secret that signs cursors.
func (s *Store) connect(ctx context.Context, path string, busy time.Duration, alone bool) (secret []byte, err error) {
	if s.writer, err = sql.Open("sqlite", dsn(path, busy, url.Values{
		"_txlock":       {"immediate"}, // a lock taken later in the transaction could not wait
		"_synchronous":  {"FULL"},
		"_foreign_keys": {"on"},
	})); err != nil {
		return nil, err
	}
	s.writer.SetMaxOpenConns(1)
	if err := useWAL(ctx, s.writer, busy); err != nil {
		return nil, err
	}
	if err := schema.Migrate(ctx, s.writer); err != nil {
		return nil, err
	}
	if s.stepNoted, err = correctStep(ctx, s.writer, alone); err != nil {
		return nil, err
	}
	s.clock.opened = s.clock.opened.Add(-s.stepNoted)
	if s.readers, err = sql.Open("sqlite", dsn(path, busy, url.Values{"_query_only": {"on"}})); err != nil {
		return nil, err
	}
	// Reads use the CPU only: more of them at a time would wait for it.
	n := max(4, runtime.GOMAXPROCS(0))
	s.readers.SetMaxOpenConns(n)
	s.readers.SetMaxIdleConns(n)
	for _, query := range queries.All() {
		stmt, err := s.readers.PrepareContext(ctx, query) //nolint:sqlclosecheck // disconnect closes it
		if err != nil {
			return nil, err
		}
		s.statements[query] = stmt
	}
	err = s.readers.QueryRowContext(ctx, "SELECT cursor_secret FROM head").Scan(&secret)
	return secret, err
}

// disconnect closes the connections, and then releases the lock.
func (s *Store) disconnect() error {
	var errs []error
	for _, stmt := range s.statements {
		errs = append(errs, stmt.Close())
	}
	for _, db := range []*sql.DB{s.readers, s.writer} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(append(errs, s.lock.Close())...)
}

// Ping implements keystore.Store.
func (s *Store) Ping(ctx context.Context) error {
	if _, err := s.Head(ctx); err != nil {
		return err
	}
	return sqlstore.Wrap(ctx, s, "ping", s.files.check())
}

// Close implements keystore.Store.
func (s *Store) Close() error {
	s.Stop()
	s.noteLastStep()
	close(s.stop)
	s.writes.Wait()
	return s.disconnect()
}

// Name implements sqlstore.Engine.
func (s *Store) Name() string { return "sqlite" }

// Reader implements sqlstore.Engine.
func (s *Store) Reader() sqlstore.Querier { return querier{s.readers} }

// Read implements sqlstore.Engine.
func (s *Store) Read(ctx context.Context, do func(q sqlstore.Querier) error) error {
	tx, err := s.readers.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // nothing was written
	return do(querier{tx})
}

// querier reads from a database or a transaction.
type querier struct {
	of interface {
		QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	}
}

// Query implements sqlstore.Querier.
func (q querier) Query(ctx context.Context, query string, args ...any) (sqlstore.Rows, error) {
	rows, err := q.of.QueryContext(ctx, query, args...) //nolint:rowserrcheck // the caller checks
	if err != nil {
		return nil, err // not a nil *sql.Rows in the interface
	}
	return rows, nil
}

// conn is the transaction of a mutation.
type conn struct {
	querier
	tx *sql.Tx
}

// Execute implements sqlstore.Conn.
func (c conn) Execute(ctx context.Context, query string, args ...any) error {
	_, err := c.tx.ExecContext(ctx, query, args...)
	return err
}

// write is the writer goroutine. The gate admits one job at a time until the job is done, so at most one waits here.
func (s *Store) write() {
	for {
		select {
		case job := <-s.jobs:
			job()
			s.gate.Leave()
		case <-s.stop:
			return
		}
	}
}

// Mutate implements sqlstore.Engine. The writer finishes a transaction that has begun even if ctx ends, so the outcome is
// unknown then.
func (s *Store) Mutate(ctx context.Context, lane sqlstore.Lane, actor string, do func(t *sqlstore.Tx) error) error {
	done := make(chan error, 1)
	job := func() {
		err := ctx.Err()
		if err == nil {
			err = s.transact(context.WithoutCancel(ctx), actor, do)
		}
		done <- err
	}
	if err := s.gate.Enter(ctx, lane); err != nil {
		return err
	}
	select {
	case s.jobs <- job:
	case <-s.stop:
		s.gate.Leave()
		return sqlstore.ErrClosed
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// transact runs do in a transaction of the writer's connection.
func (s *Store) transact(ctx context.Context, actor string, do func(t *sqlstore.Tx) error) error {
	if err := s.files.check(); err != nil {
		return err
	}
	sqlTx, err := s.writer.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = sqlTx.Rollback() }() // no effect after the commit
	// The clocks are read under the lock, so that times are in the order of the commits.
	t := &sqlstore.Tx{
		Conn: conn{querier{sqlTx}, sqlTx}, Ctx: ctx, Actor: actor,
		Now: sqlstore.RoundUp(s.clock.wall()), LeaseNow: sqlstore.RoundUp(s.clock.lease()), Step: s.clock.stepped(),
	}
	if t.Head, err = s.HeadIn(t); err != nil {
		return err
	}
	step := s.noteStep(t)
	if err := cmp.Or(do(t), t.Err); err != nil {
		return err
	}
	if t.Finish(); t.Err != nil {
		return t.Err
	}
	if err := sqlTx.Commit(); err != nil {
		return err
	}
	if err := s.files.check(); err != nil {
		return fmt.Errorf("commit with unknown outcome: %w", err)
	}
	s.stepNoted = step
	if t.Moved {
		s.changed.Wake()
	}
	return nil
}
