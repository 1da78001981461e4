package postgres

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

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
	c, err := s.pool.Acquire(ctx)
	if err != nil {
		return false, err
	}
	x := &tx{conn: c, queue: &pgx.Batch{}}
	defer x.release(ctx)
	t := &sqlstore.Tx{Conn: x, Ctx: ctx, Actor: actor}
	if err := s.begin(t); err != nil {
		return false, err
	}
	return true, s.run(t, x, do)
}

// run runs do and commits.
func (s *Store) run(t *sqlstore.Tx, x *tx, do func(t *sqlstore.Tx) error) error {
	if err := cmp.Or(do(t), t.Err); err != nil {
		return err
	}
	t.Finish()
	if t.Moved {
		t.Exec("SELECT pg_notify(?, '')", channel)
	}
	if t.Err != nil {
		return t.Err
	}
	if err := x.commit(t.Ctx); err != nil {
		return err
	}
	if t.Moved {
		s.changed.Wake()
	}
	return nil
}

// begin waits for the mutations before this one and then reads the clock, so that times are in the order of the commits.
func (s *Store) begin(t *sqlstore.Tx) error {
	t.Exec("BEGIN ISOLATION LEVEL READ COMMITTED")
	t.Exec(limits, milliseconds(statementTimeout), milliseconds(lockTimeout))
	t.Exec("SELECT FROM head FOR NO KEY UPDATE")
	h, err := s.headIn(t)
	if err != nil {
		return err
	}
	t.Now, t.LeaseNow = h.Now, h.Now
	if err = h.check(); errors.Is(err, errTimeline) {
		// A random epoch: a backup that is restored twice may get the same timeline twice.
		t.Exec("UPDATE head SET epoch = ?, timeline = ?", rand.Text(), h.current)
		t.NotBefore(time.Duration(s.unknown.Load()))
		if t.Err != nil {
			return t.Err
		}
		h, err = s.headIn(t)
	}
	t.Head = h.public()
	return err
}

// errUnknownOutcome is the error of a commit that may have been made.
var errUnknownOutcome = errors.New("commit with unknown outcome")

// tx is the transaction of a mutation, which holds the head's lock. It queues statements, and sends them with the next query
// or the commit, because others wait during each round trip.
type tx struct {
	conn  *pgxpool.Conn
	queue *pgx.Batch
}

// Execute implements sqlstore.Conn.
func (x *tx) Execute(_ context.Context, query string, args ...any) error {
	args, err := values(args)
	if err == nil {
		x.queue.Queue(numbered(query), args...)
	}
	return err
}

// Query implements sqlstore.Querier.
func (x *tx) Query(ctx context.Context, query string, args ...any) (sqlstore.Rows, error) {
	if err := x.Execute(ctx, query, args...); err != nil {
		return nil, err
	}
	results, err := x.send(ctx)
	if err != nil {
		return nil, err
	}
	found, err := results.Query()
	if err != nil {
		return nil, cmp.Or(results.Close(), err)
	}
	return readFirst(found, results.Close)
}

// send sends what is queued, and returns the results from the last statement on. An error is one of those before.
func (x *tx) send(ctx context.Context) (pgx.BatchResults, error) {
	before := x.queue.Len() - 1
	results := x.conn.SendBatch(ctx, x.queue)
	x.queue = &pgx.Batch{}
	for range before {
		if _, err := results.Exec(); err != nil {
			_ = results.Close() // it returns the same error
			return nil, err
		}
	}
	return results, nil
}

// flush executes what is queued.
func (x *tx) flush(ctx context.Context) error {
	if x.queue.Len() == 0 {
		return nil
	}
	results, err := x.send(ctx)
	if err != nil {
		return err
	}
	return results.Close()
}

// commit executes what is queued, and commits.
func (x *tx) commit(ctx context.Context) error {
	x.queue.Queue("COMMIT")
	results, err := x.send(ctx)
	if engine := (*pgconn.PgError)(nil); errors.As(err, &engine) {
		return err // the server executes nothing after a statement that failed
	}
	if err == nil {
		err = results.Close()
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errUnknownOutcome, err)
	}
	return nil
}

// release rolls back what is not committed, and returns the connection to the pool.
func (x *tx) release(ctx context.Context) {
	if c := x.conn.Conn().PgConn(); !c.IsClosed() && c.TxStatus() != 'I' {
		_, _ = x.conn.Exec(context.WithoutCancel(ctx), "ROLLBACK") // the pool closes a connection in a transaction
	}
	x.conn.Release()
}
