// Package sqlstore is the part of a store that all engines over SQL share: every mutation, the reads of operators
// and sidecars, signed cursors, the form of values in columns, and schema migration. The engines differ in how they
// connect, serialize mutations, read the clock and write a few queries.
//
// A mutation checks, and then writes. Those that wait in the same lane share a transaction (groups).
//
// Queries write ? or ?1 for their arguments. All engines have the same tables and columns (see their migrations).
package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// Engine has the methods that differ between engines.
type Engine interface {
	// Name is the prefix of error messages.
	Name() string
	// Reader reads committed rows. Each query has its own snapshot.
	Reader() Querier
	// Read runs do in one snapshot.
	Read(ctx context.Context, do func(q Querier) error) error
	// Mutate runs do in one transaction that sees all earlier ones and overlaps none, and wakes those that wait on
	// Changed if it moved the head. Waiting mutations of one process run in the order of their lanes. Mutate may
	// return before do does when ctx ends.
	Mutate(ctx context.Context, lane Lane, actor string, do func(t *Tx) error) error
	HeadReader
	Bulk
}

// Querier reads, in a transaction or outside of one.
type Querier interface {
	Query(ctx context.Context, query string, args ...any) (Rows, error)
}

// Rows are the rows of a query, as in database/sql. Close them, also after an error of Err.
type Rows interface {
	Scanner
	Next() bool
	Err() error
	Close() error
}

// Conn reads and writes in a transaction.
type Conn interface {
	Querier
	// Execute executes a statement, at the latest before the next query and before the commit. An error that it does not
	// return is returned then.
	Execute(ctx context.Context, query string, args ...any) error
}

// Core is the part of a keystore.Store that is the same for all engines.
type Core struct {
	engine  Engine
	queries *Queries
	secret  []byte // signs cursors; from the database, so that all processes have the same
	groups  groups
	polls   chan *poll
	stop    chan struct{}
	work    sync.WaitGroup

	MaxSidecars, MaxGoneSidecars int64 // those of keystore; tests set smaller ones before the first poll

	usagePruned atomic.Int64 // seq of the last key whose usage was pruned; 0: the next round begins
	largest     grant        // on record, as the last batch of polls read it
	forcedPrune time.Time    // when a full record last caused a prune
}

// NewCore makes the Core of an engine, and starts recording polls until Stop. The secret is stored in the database.
func NewCore(engine Engine, queries *Queries, secret []byte) *Core {
	s := &Core{
		engine: engine, queries: queries, secret: secret, polls: make(chan *poll), stop: make(chan struct{}),
		MaxSidecars: keystore.MaxSidecars, MaxGoneSidecars: keystore.MaxGoneSidecars,
	}
	s.groups.engine = engine
	s.work.Go(s.recordPolls)
	return s
}

// Stop ends the background work. Call it once, before the engine closes.
func (s *Core) Stop() {
	s.groups.stop()
	close(s.stop)
	s.work.Wait()
}

// Mutate runs do in one transaction of the engine, in the actor's lane. It returns after the commit or the rollback,
// or when ctx ends; then the outcome is unknown.
func Mutate[T any](ctx context.Context, e Engine, what, actor string, do func(t *Tx) (T, error)) (T, error) {
	result := make(chan T, 1)
	err := e.Mutate(ctx, laneOf(actor), actor, func(t *Tx) error {
		v, err := do(t)
		result <- v
		return err
	})
	if err != nil {
		var zero T
		return zero, Wrap(ctx, e, what, err)
	}
	return <-result, nil
}

// mutation is one mutation of a T.
type mutation[T any] struct {
	what, actor string
	timed       bool // check needs the time
	// check returns the object as it is and whether the change is already in place, or the reason to refuse it.
	check func(ctx context.Context, q Querier, now time.Time) (v T, inPlace bool, err error)
	// apply makes the change.
	apply func(t *Tx, v T) (T, error)
}

// run checks first outside of a transaction, so that refused and repeated requests do not delay other writes, and again
// inside of it.
func (m mutation[T]) run(ctx context.Context, s *Core) (T, error) {
	var zero T
	var head keystore.Head
	var err error
	if m.timed {
		if head, err = s.Head(ctx); err != nil {
			return zero, err
		}
	}
	v, inPlace, err := m.check(ctx, s.engine.Reader(), head.Now)
	switch {
	case err != nil:
		return zero, Wrap(ctx, s.engine, m.what, err)
	case inPlace:
		return v, nil
	}
	var refused error
	err = s.groups.mutate(ctx, m.actor, func(t *Tx) error {
		found, inPlace, err := m.check(t.Ctx, t, t.Now)
		if refused = refusal(err); refused != nil {
			err = nil
		} else if err == nil && !inPlace {
			found, err = m.apply(t, found)
		}
		v = found
		return err
	})
	switch {
	case err != nil: // the mutation may still run
		return zero, Wrap(ctx, s.engine, m.what, err)
	case refused != nil:
		return zero, refused
	}
	return v, nil
}

// refusal returns the error if it is a mutation's reason to write nothing, and nil for a failure of the database.
func refusal(err error) error {
	var conflict *keystore.Conflict
	if errors.Is(err, keystore.ErrNotFound) || errors.Is(err, keystore.ErrGone) || errors.Is(err, keystore.ErrFull) ||
		errors.Is(err, keystore.ErrCursor) || errors.As(err, &conflict) {
		return err
	}
	return nil
}

// Read runs do in one snapshot.
func Read(ctx context.Context, e Engine, what string, do func(q Querier) error) error {
	return Wrap(ctx, e, what, e.Read(ctx, do))
}

// Wrap returns an error as keystore.Store promises it: errors of keystore unchanged, the context's error in the chain, and
// any other with the action that failed.
func Wrap(ctx context.Context, e Engine, what string, err error) error {
	switch {
	case err == nil:
		return nil
	case refusal(err) != nil:
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %s: %w (%w)", e.Name(), what, ctx.Err(), err)
	}
	return fmt.Errorf("%s: %s: %w", e.Name(), what, err)
}

// orNotFound returns keystore.ErrNotFound for a missing row.
func orNotFound(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return keystore.ErrNotFound
	}
	return err
}

// Scanner is one row, of a query for one or for many.
type Scanner interface{ Scan(dest ...any) error }

// row is the first row of a query, or its error.
type row struct {
	rows Rows
	err  error
}

// QueryRow runs a query, and scans its first row.
func QueryRow(ctx context.Context, q Querier, query string, args ...any) Scanner {
	rows, err := q.Query(ctx, query, args...)
	return row{rows, err}
}

// Scan implements Scanner. The error is sql.ErrNoRows if there is no row.
func (r row) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	defer func() { _ = r.rows.Close() }()
	if !r.rows.Next() {
		return cmp.Or(r.rows.Err(), sql.ErrNoRows)
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	return r.rows.Close()
}

// collect reads all rows of a query.
func collect[T any](ctx context.Context, q Querier, scan func(row Scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var all []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, rows.Err()
}

// scanOne scans a row of one column.
func scanOne[T any](row Scanner) (v T, err error) {
	err = row.Scan(&v)
	return v, err
}

// Tx is one mutation's transaction. Its own methods keep the first error in Err and do nothing after it, so that a
// mutation reads as a list of steps; a transaction with an Err is rolled back.
type Tx struct {
	Conn
	Ctx context.Context
	Now time.Time // wall clock
	// LeaseNow is of the clock that counts leases, stale times and the wait of a new epoch. A step of the wall clock
	// does not move it, where the engine can detect the step. The wall clock is Step ahead of it.
	LeaseNow time.Time
	Step     time.Duration
	Actor    string
	// Head is the head when the transaction began, but for its revision, which counts the changes of this transaction. The
	// engine writes the revision with the commit.
	Head            keystore.Head
	Moved           bool    // the head moved, or what sidecars have acknowledged
	raised          bool    // the revision
	changes, events [][]any // rows that Finish inserts
	Err             error
}

// Exec executes a statement.
func (t *Tx) Exec(query string, args ...any) {
	if t.Err == nil {
		t.Err = t.Execute(t.Ctx, query, args...)
	}
}

// raise raises the head's revision by n and returns the new one.
func (t *Tx) raise(n int) (revision int64) {
	t.Head.Revision += int64(n)
	t.Moved, t.raised = true, true
	return t.Head.Revision
}

// Finish writes the log, the events and the head's revision. An engine calls it before it commits.
func (t *Tx) Finish() {
	t.insert("log (revision, at, account, digest)", t.changes)
	t.insert("events (at, actor, action, account, key, detail)", t.events)
	if t.raised {
		t.Exec("UPDATE head SET revision = ?", t.Head.Revision)
	}
}

// insert inserts rows with few statements. Parsing and planning costs more than a row.
func (t *Tx) insert(into string, rows [][]any) {
	for part := range slices.Chunk(rows, perStatement) {
		row := "(?" + strings.Repeat(", ?", len(part[0])-1) + ")"
		t.Exec("INSERT INTO "+into+" VALUES "+row+strings.Repeat(", "+row, len(part)-1), slices.Concat(part...)...)
	}
}

// logAccount logs that every credential of the account has changed, and returns the new revision.
func (t *Tx) logAccount(id string) int64 { return t.log(id, nil) }

// logCredential logs that one credential has changed, and returns the new revision.
func (t *Tx) logCredential(d credential.Digest) int64 { return t.log(nil, Digest(d)) }

func (t *Tx) log(account, digest any) (revision int64) {
	revision = t.raise(1)
	t.changes = append(t.changes, []any{revision, Stamp(t.Now), account, digest})
	return revision
}

// event writes an audit event.
func (t *Tx) event(action keystore.Action, account, key string, fields Detail) {
	t.events = append(t.events, []any{Stamp(t.Now), t.Actor, string(action), account, Text(key), fields})
}

// Broadcast wakes all that wait. The zero Broadcast is ready for use.
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

// Wake wakes all that wait.
func (b *Broadcast) Wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}
