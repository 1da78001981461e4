// Package sqlstore is what the engines that keep the store in an SQL database
// share: all that changes something, lists with signed cursors, how values stand in
// columns, and how the schema comes up to date. The engines differ in how they connect,
// make one change follow another, and read for sidecars.
//
// Queries write ? or ?1 for their arguments. The tables are those of the engines'
// migrations, with the same names and columns in all of them.
package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// Engine is what the engines differ in.
type Engine interface {
	// Name begins the text of errors.
	Name() string
	// Reader reads what has been committed, each query for itself.
	Reader() Querier
	// Read runs do in one snapshot.
	Read(ctx context.Context, do func(q Querier) error) error
	// Head is keystore.Feed's: the head as it is, and the store's time.
	Head(ctx context.Context) (keystore.Head, error)
	// HeadIn reads the head in a transaction of Mutate.
	HeadIn(t *Tx) (keystore.Head, error)
	// Mutate runs do in one transaction that sees all those before it and that none
	// overlaps, and wakes who waits if it moved the head. Those of one process that wait are
	// run in the order of their lanes. When ctx ends it may return before do does.
	Mutate(ctx context.Context, lane Lane, actor string, do func(t *Tx) error) error
	Bulk
}

// Querier is what reads, in a transaction or out of one.
type Querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// Conn is what reads and writes in a transaction.
type Conn interface {
	Querier
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// Core is the part of a keystore.Store that is the same for all engines.
type Core struct {
	engine Engine
	secret []byte // signs cursors; the database's, so that every process knows it
	polls  chan *poll
	stop   chan struct{}
	work   sync.WaitGroup

	usagePruned atomic.Int64 // the seq of the key up to which usage was pruned, 0 before the next round
	largest     grant        // on record, as recordBatch has seen it last
	roomMade    time.Time    // when recordBatch last pruned because the sidecars on record were too many
}

// NewCore makes the Core of an engine whose database holds the secret. It works until
// Stop.
func NewCore(engine Engine, secret []byte) *Core {
	s := &Core{engine: engine, secret: secret, polls: make(chan *poll), stop: make(chan struct{})}
	s.work.Go(s.recordPolls)
	return s
}

// Stop ends the work; to be called once, before the engine's own end.
func (s *Core) Stop() {
	close(s.stop)
	s.work.Wait()
}

// Mutate has the engine run do in one transaction, in the actor's lane, and returns when it is committed
// or rolled back, or when ctx is done: then the outcome is unknown.
func Mutate[T any](ctx context.Context, e Engine, what, actor string, do func(t *Tx) (T, error)) (T, error) {
	done := make(chan T, 1)
	err := e.Mutate(ctx, laneOf(actor), actor, func(t *Tx) error {
		v, err := do(t)
		done <- v
		return err
	})
	if err != nil {
		var zero T
		return zero, Failed(ctx, e, what, err)
	}
	return <-done, nil
}

// Read runs do in one snapshot.
func Read(ctx context.Context, e Engine, what string, do func(q Querier) error) error {
	return Failed(ctx, e, what, e.Read(ctx, do))
}

// Failed makes an error that Store's contract knows: the typed ones as they are,
// a context's in the chain, any other with what was being done.
func Failed(ctx context.Context, e Engine, what string, err error) error {
	var conflict *keystore.Conflict
	switch {
	case err == nil:
		return nil
	case errors.Is(err, keystore.ErrNotFound), errors.Is(err, keystore.ErrGone), errors.Is(err, keystore.ErrFull),
		errors.Is(err, keystore.ErrCursor), errors.As(err, &conflict):
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %s: %w (%w)", e.Name(), what, ctx.Err(), err)
	}
	return fmt.Errorf("%s: %s: %w", e.Name(), what, err)
}

// Found turns the lack of a row into keystore.ErrNotFound.
func Found(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return keystore.ErrNotFound
	}
	return err
}

// Tx is one transaction that changes something. Its own methods keep the first error
// in Err, and then the transaction is to be rolled back, so that the steps of a
// mutation can be read one after the other.
type Tx struct {
	Conn
	Ctx context.Context
	Now time.Time // for what people read
	// LeaseNow is of the clock by which leases, stale times and the wait of a new epoch are
	// counted. No step of the wall clock moves it where an engine can know of the step.
	LeaseNow time.Time
	Actor    string
	Moved    bool // the head, or what sidecars have acknowledged
	Err      error
}

// Exec writes, unless something failed before.
func (t *Tx) Exec(query string, args ...any) {
	if t.Err == nil {
		_, t.Err = t.ExecContext(t.Ctx, query, args...)
	}
}

// changedAccount puts into the log that every credential of the account has
// changed, and returns the new revision.
func (t *Tx) changedAccount(id string) int64 { return t.log(id, nil) }

// changedCredential puts one credential's change into the log, and returns the new
// revision.
func (t *Tx) changedCredential(d credential.Digest) int64 { return t.log(nil, Digest(d)) }

func (t *Tx) log(account, digest any) (revision int64) {
	if t.Err != nil {
		return 0
	}
	t.Err = t.QueryRowContext(t.Ctx, "UPDATE head SET revision = revision + 1 RETURNING revision").Scan(&revision)
	t.Exec("INSERT INTO log (revision, at, account, digest) VALUES (?, ?, ?, ?)", revision, Stamp(t.Now), account, digest)
	t.Moved = true
	return revision
}

// event writes the audit of what the transaction does.
func (t *Tx) event(action keystore.Action, account, key string, fields map[string]string) {
	t.Exec("INSERT INTO events (at, actor, action, account, key, detail) VALUES (?, ?, ?, ?, ?, ?)",
		Stamp(t.Now), t.Actor, string(action), account, Text(key), Detail(fields))
}

// Broadcast wakes all who wait at once. The zero Broadcast is ready for use.
type Broadcast struct {
	mu sync.Mutex
	ch chan struct{}
}

// Wait returns a channel that the next Wake closes.
func (b *Broadcast) Wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

// Wake wakes all who wait.
func (b *Broadcast) Wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}
