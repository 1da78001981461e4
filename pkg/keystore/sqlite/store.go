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
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// Options are what Open may be told. The zero Options is right for production.
type Options struct {
	// Now is the store's clock; nil means time.Now.
	Now func() time.Time
	// BusyTimeout is how long to wait for another process's lock on the file; 0 means 5s.
	BusyTimeout time.Duration
}

// Store is a keystore.Store in one SQLite file.
type Store struct {
	now     func() time.Time
	writer  *sql.DB // one connection, used by the writer goroutine alone
	readers *sql.DB
	resolve *sql.Stmt // over readers: preparing it costs more than one digest's look-up
	secret  []byte    // signs cursors
	changed broadcast

	jobs   chan func()
	polls  chan *poll
	stop   chan struct{}
	writes sync.WaitGroup // the writer goroutine
}

var _ keystore.Store = (*Store)(nil)

// Open opens the database at path and makes it if there is none, with mode 0600,
// or brings it up to this program's schema. Its folder must exist. The error
// names the path and what is wrong with it.
func Open(ctx context.Context, path string, opts Options) (*Store, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.BusyTimeout == 0 {
		opts.BusyTimeout = 5 * time.Second
	}
	path, err := place(path)
	if err != nil {
		return nil, err
	}
	s := &Store{
		now:   opts.Now,
		jobs:  make(chan func()),
		polls: make(chan *poll),
		stop:  make(chan struct{}),
	}
	if err := s.connect(ctx, path, opts.BusyTimeout); err != nil {
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
	if err := migrate(ctx, s.writer); err != nil {
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
	return s.readers.QueryRowContext(ctx, "SELECT cursor_secret FROM head").Scan(&s.secret)
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
	_, err := s.Head(ctx)
	return err
}

// Close implements keystore.Store.
func (s *Store) Close() error {
	close(s.stop)
	s.writes.Wait()
	return s.disconnect()
}

// querier is what reads, in a transaction or out of one.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// read runs do in one snapshot.
func read(ctx context.Context, s *Store, what string, do func(q querier) error) error {
	tx, err := s.readers.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return failed(ctx, what, err)
	}
	defer func() { _ = tx.Rollback() }() // nothing was written
	return failed(ctx, what, do(tx))
}

// failed makes an error that Store's contract knows: the typed ones as they are,
// a context's in the chain, any other with what was being done.
func failed(ctx context.Context, what string, err error) error {
	var conflict *keystore.Conflict
	switch {
	case err == nil:
		return nil
	case errors.Is(err, keystore.ErrNotFound), errors.Is(err, keystore.ErrGone),
		errors.Is(err, keystore.ErrCursor), errors.As(err, &conflict):
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("sqlite: %s: %w (%w)", what, ctx.Err(), err)
	}
	return fmt.Errorf("sqlite: %s: %w", what, err)
}

// found turns the lack of a row into keystore.ErrNotFound.
func found(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return keystore.ErrNotFound
	}
	return err
}
