package sqlstore

import (
	"context"
	"errors"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// ErrClosed is the error of calls that come after the store was closed.
var ErrClosed = errors.New("the store is closed")

// poll is one RecordPoll that waits to be recorded.
type poll struct {
	keystore.Poll
	ctx  context.Context
	done chan recorded
}

// recorded is what RecordPoll returns.
type recorded struct {
	head  keystore.Head
	lease time.Duration
	err   error
}

// RecordPoll implements keystore.Feed.
func (s *Core) RecordPoll(ctx context.Context, p keystore.Poll) (keystore.Head, time.Duration, error) {
	const what = "record poll"
	waiting := &poll{Poll: p, ctx: ctx, done: make(chan recorded, 1)}
	select {
	case s.polls <- waiting:
	case <-ctx.Done():
		return keystore.Head{}, 0, Failed(ctx, s.engine, what, ctx.Err())
	case <-s.stop:
		return keystore.Head{}, 0, Failed(ctx, s.engine, what, ErrClosed)
	}
	select {
	case r := <-waiting.done:
		return r.head, r.lease, Failed(ctx, s.engine, what, r.err)
	case <-ctx.Done():
		return keystore.Head{}, 0, Failed(ctx, s.engine, what, ctx.Err())
	}
}

// recordPolls records polls until the stop. Those that come while a transaction is
// under way share the next one, because each costs a sync of the disk.
func (s *Core) recordPolls() {
	for {
		select {
		case p := <-s.polls:
			s.recordBatch([]*poll{p})
		case <-s.stop:
			return
		}
	}
}

func (s *Core) recordBatch(batch []*poll) {
	var outcomes []recorded
	var largest grant
	err := s.engine.Mutate(context.Background(), LanePolls, "", func(t *Tx) error {
		head, err := s.engine.HeadIn(t)
		if err != nil {
			return err
		}
		batch = s.waiting(batch)
		f := &fleet{Tx: t, head: head, changed: map[string]bool{}}
		if err := s.readFleet(f, batch); err != nil {
			return err
		}
		for _, p := range batch {
			outcomes = append(outcomes, f.record(p))
		}
		f.write()
		if largest, err = f.noteGrant(s.largest); err != nil {
			return err
		}
		return t.Err
	})
	if err == nil {
		s.largest = largest
	}
	for i, p := range batch {
		if err != nil {
			p.done <- recorded{err: err}
		} else {
			p.done <- outcomes[i]
		}
	}
}

// waiting adds all that wait at this moment.
func (s *Core) waiting(batch []*poll) []*poll {
	for {
		select {
		case p := <-s.polls:
			batch = append(batch, p)
		default:
			return batch
		}
	}
}
