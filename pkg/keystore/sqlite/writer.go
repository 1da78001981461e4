package sqlite

import (
	"context"
	"errors"
	"fmt"

	"github.com/phantomrouter/phantom-authz/pkg/keystore/internal/sqlstore"
)

// write is the writer goroutine. Each job was admitted by the gate, and makes room when it is
// done: so at most one waits here.
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

// Mutate implements sqlstore.Engine: the writer runs do in one transaction. When ctx
// is done the outcome is unknown, for what has begun is finished.
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
	defer func() { _ = sqlTx.Rollback() }() // of no effect after the commit
	// The clocks are read under the lock, so that times follow the order of the commits.
	t := &sqlstore.Tx{
		Conn: sqlTx, Ctx: ctx, Actor: actor,
		Now: sqlstore.RoundUp(s.clock.wall()), LeaseNow: sqlstore.RoundUp(s.clock.lease()),
	}
	step := s.noteStep(t)
	if err := errors.Join(do(t), t.Err); err != nil {
		return err
	}
	if err := sqlTx.Commit(); err != nil {
		return err
	}
	if err := s.files.check(); err != nil {
		return fmt.Errorf("commit, whose outcome is unknown: %w", err)
	}
	s.stepNoted = step
	if t.Moved {
		s.changed.Wake()
	}
	return nil
}
