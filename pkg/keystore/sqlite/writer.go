package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

var errClosed = errors.New("the store is closed")

// write is the writer goroutine.
func (s *Store) write() {
	for {
		select {
		case job := <-s.jobs:
			job()
		case p := <-s.polls:
			s.recordPolls(append(s.waitingPolls(), p))
		case <-s.stop:
			return
		}
	}
}

// mutate has the writer run do in one transaction, and returns when it is
// committed or rolled back, or when ctx is done: then the outcome is unknown, for
// what has begun is finished. What moves the head wakes those who wait for it.
func mutate[T any](ctx context.Context, s *Store, what, actor string, do func(t *tx) (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	job := func() {
		var out outcome
		if out.err = ctx.Err(); out.err == nil {
			out.err = s.transact(context.WithoutCancel(ctx), actor, func(t *tx) (err error) {
				out.value, err = do(t)
				return err
			})
		}
		done <- out
	}
	var zero T
	select {
	case s.jobs <- job:
	case <-ctx.Done():
		return zero, failed(ctx, what, ctx.Err())
	case <-s.stop:
		return zero, failed(ctx, what, errClosed)
	}
	select {
	case out := <-done:
		if out.err != nil {
			return zero, failed(ctx, what, out.err)
		}
		return out.value, nil
	case <-ctx.Done():
		return zero, failed(ctx, what, ctx.Err())
	}
}

// transact runs do in a transaction of the writer's connection.
func (s *Store) transact(ctx context.Context, actor string, do func(t *tx) error) error {
	sqlTx, err := s.writer.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = sqlTx.Rollback() }() // of no effect after the commit
	// The clock is read under the lock, so that times follow the order of the commits.
	t := &tx{Tx: sqlTx, ctx: ctx, now: roundUp(s.now()), actor: actor}
	if err := errors.Join(do(t), t.err); err != nil {
		return err
	}
	if err := sqlTx.Commit(); err != nil {
		return err
	}
	if t.moved {
		s.changed.wake()
	}
	return nil
}

// tx is one transaction of the writer. Its own methods keep the first error in
// err, and then the transaction is rolled back, so that the steps of a mutation
// can be read one after the other.
type tx struct {
	*sql.Tx
	ctx   context.Context
	now   time.Time
	actor string
	moved bool // the head, or what sidecars have acknowledged
	err   error
}

func (t *tx) exec(query string, args ...any) {
	if t.err == nil {
		_, t.err = t.ExecContext(t.ctx, query, args...)
	}
}

// changedAccount puts into the log that every credential of the account has
// changed, and returns the new revision.
func (t *tx) changedAccount(id string) int64 { return t.log(id, nil) }

// changedCredential puts one credential's change into the log, and returns the new
// revision.
func (t *tx) changedCredential(d credential.Digest) int64 { return t.log(nil, digest(d)) }

func (t *tx) log(account, digest any) (revision int64) {
	if t.err != nil {
		return 0
	}
	t.err = t.QueryRowContext(t.ctx, "UPDATE head SET revision = revision + 1 RETURNING revision").Scan(&revision)
	t.exec("INSERT INTO log (revision, at, account, digest) VALUES (?, ?, ?, ?)", revision, stamp(t.now), account, digest)
	t.moved = true
	return revision
}

// event writes the audit of what the transaction does.
func (t *tx) event(action keystore.Action, account, key string, fields map[string]string) {
	t.exec("INSERT INTO events (at, actor, action, account, key, detail) VALUES (?, ?, ?, ?, ?, ?)",
		stamp(t.now), t.actor, string(action), account, text(key), detail(fields))
}

// broadcast wakes all who wait at once. The zero broadcast is ready for use.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{}
}

func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *broadcast) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}
