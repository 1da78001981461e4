// Package sqlite keeps the key API's store in one SQLite file, by the pure Go
// engine modernc.org/sqlite: WAL, synchronous=FULL, so that what has been
// answered survives a power cut.
//
// One goroutine writes, over one connection: SQLite has one writer anyhow, and so
// no call waits for a lock in the middle of a transaction. Each mutation is a
// transaction of its own; the polls of many sidecars that come together share one,
// because each commit costs a sync of the disk. Reads go over a pool of
// connections that cannot write, each a snapshot that no writer holds up.
//
// Times are kept in microseconds. The moment of a change and the ends of leases are
// rounded up, so that no lease on record ends before the one that was given; times
// from outside and those that are judged by are cut off.
//
// If the database file is deleted or replaced under the store, nothing is written any more and Ping
// fails; reads go on in the file that was opened.
//
// Leases, stale times and the wait of a new epoch are counted by the monotonic clock: a wall clock
// that is stepped, as after a pause of a virtual machine, neither ends nor prolongs them. What
// the store returns of them is by the wall clock all the same. A step that this process has
// seen is on record, and the next process corrects the times by it when it opens the
// store. A step while no process runs is not seen: leases then end too early by as much as
// the clock was put forward, or too late by as much as it was put back. The same is true of the
// last seconds before a kill, if nothing was written in them.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"runtime"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

// Options are what Open may be told. The zero Options is right for production.
type Options struct {
	// Now is the wall clock; nil means time.Now.
	Now func() time.Time
	// Elapsed is the monotonic time since some moment; nil means that of Now.
	Elapsed func() time.Duration
	// Log is told if the database file is deleted while it is in use; nil: nobody is.
	Log *zap.Logger
	// BusyTimeout is how long to wait for another process's lock on the file; 0 means 5s.
	BusyTimeout time.Duration
}

// Store is a keystore.Store in one SQLite file.
type Store struct {
	*sqlstore.Core
	clock   clock
	writer  *sql.DB // one connection, used by the writer goroutine alone
	readers *sql.DB
	resolve *sql.Stmt // over readers: preparing it costs more than one digest's look-up
	changed sqlstore.Broadcast
	files   *files

	stepNoted time.Duration  // on record as head.clock_step; of the writer goroutine
	gate      *sqlstore.Gate // before jobs
	jobs      chan func()
	stop      chan struct{}
	writes    sync.WaitGroup // the writer goroutine
}

var _ keystore.Store = (*Store)(nil)

// Open opens the database at path and makes it if there is none, with mode 0600,
// or brings it up to this program's schema. Its folder must exist. The error
// names the path and what is wrong with it.
func Open(ctx context.Context, path string, opts Options) (*Store, error) {
	if opts.BusyTimeout == 0 {
		opts.BusyTimeout = 5 * time.Second
	}
	path, err := place(path)
	if err != nil {
		return nil, err
	}
	s := &Store{
		clock: newClock(opts),
		gate:  sqlstore.NewGate(1),
		jobs:  make(chan func()),
		stop:  make(chan struct{}),
	}
	err = s.connect(ctx, path, opts.BusyTimeout)
	if err == nil {
		if opts.Log == nil {
			opts.Log = zap.NewNop()
		}
		s.files, err = openedFiles(path, opts.Log)
	}
	if err != nil {
		return nil, explain(path, errors.Join(err, s.disconnect()))
	}
	s.writes.Go(s.write)
	return s, nil
}

func (s *Store) connect(ctx context.Context, path string, busy time.Duration) (err error) {
	if s.writer, err = sql.Open("sqlite", writerDSN(path, busy)); err != nil {
		return err
	}
	s.writer.SetMaxOpenConns(1)
	if err := useWAL(ctx, s.writer, busy); err != nil {
		return err
	}
	if err := schema.Migrate(ctx, s.writer); err != nil {
		return err
	}
	if err := correctStep(ctx, s.writer); err != nil {
		return err
	}
	if s.readers, err = sql.Open("sqlite", readerDSN(path, busy)); err != nil {
		return err
	}
	// Reads are a matter of the processor: more of them at once would only queue there.
	n := max(4, runtime.GOMAXPROCS(0))
	s.readers.SetMaxOpenConns(n)
	s.readers.SetMaxIdleConns(n)
	if s.resolve, err = s.readers.PrepareContext(ctx, resolveQuery); err != nil {
		return err
	}
	var secret []byte
	err = s.readers.QueryRowContext(ctx, "SELECT cursor_secret FROM head").Scan(&secret)
	if err == nil {
		s.Core = sqlstore.NewCore(s, secret)
	}
	return err
}

func (s *Store) disconnect() error {
	var errs []error
	for _, db := range []*sql.DB{s.readers, s.writer} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// Ping implements keystore.Store.
func (s *Store) Ping(ctx context.Context) error {
	if _, err := s.Head(ctx); err != nil {
		return err
	}
	return sqlstore.Failed(ctx, s, "ping", s.files.check())
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
func (s *Store) Reader() sqlstore.Querier { return s.readers }

// Read implements sqlstore.Engine.
func (s *Store) Read(ctx context.Context, do func(q sqlstore.Querier) error) error {
	tx, err := s.readers.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // nothing was written
	return do(tx)
}
