package sqlstore

import (
	"cmp"
	"context"
	"sync"
)

// maxGroup is how many mutations share a transaction. Smaller syncs the disk more often; with larger, mutations of other
// lanes wait longer, and more are repeated if the database refuses one.
const maxGroup = 32

// groups joins mutations of a lane that wait, so that they share a transaction: each transaction costs round trips and a
// sync of the disk while all others wait. A mutation that is refused has written nothing, and so does not affect the others.
type groups struct {
	engine Engine
	work   sync.WaitGroup // groups in flight

	mu      sync.Mutex
	stopped bool
	open    [lanes]*group // takes more members; nil: the next mutation begins one
	waiting [lanes]int    // members of groups whose transaction has not begun
}

// group is the mutations of one transaction, in their order.
type group struct{ members []*member }

// member is one mutation of a group.
type member struct {
	ctx   context.Context // of the caller; if it is over when the transaction begins, the mutation is left out
	actor string
	// do returns an error only if the transaction must be rolled back. It may run again in another one.
	do   func(t *Tx) error
	err  error
	done chan struct{} // closed when err is valid
}

// mutate runs do in a transaction in the actor's lane. It returns after the commit or the rollback, or when ctx ends; then
// the outcome is unknown, and do may still run.
func (g *groups) mutate(ctx context.Context, actor string, do func(t *Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m := &member{ctx: ctx, actor: actor, do: do, done: make(chan struct{})}
	if err := g.join(m); err != nil {
		return err
	}
	select {
	case <-m.done:
		return m.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// join adds the mutation to the open group of its lane, or begins one.
func (g *groups) join(m *member) error {
	lane := laneOf(m.actor)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return ErrClosed
	}
	joined := g.open[lane]
	if joined == nil {
		joined = &group{}
		g.open[lane] = joined
		g.work.Go(func() { g.run(lane, joined) })
	}
	joined.members = append(joined.members, m)
	g.waiting[lane]++
	if len(joined.members) == maxGroup {
		g.open[lane] = nil
	}
	return nil
}

// close returns the members of the group, which takes no more.
func (g *groups) close(lane Lane, closed *group) []*member {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open[lane] == closed {
		g.open[lane] = nil
	}
	g.waiting[lane] -= len(closed.members)
	return closed.members
}

// run runs the group when the engine admits it. If the database refuses a statement, each member runs again alone, so that
// only the one at fault fails.
func (g *groups) run(lane Lane, of *group) {
	members := sync.OnceValue(func() []*member { return g.close(lane, of) })
	err := g.transact(lane, members)
	if len(members()) == 1 || !g.engine.Refused(err) {
		finish(members(), err)
		return
	}
	for _, m := range members() {
		alone := []*member{m}
		finish(alone, g.transact(lane, func() []*member { return alone }))
	}
}

// transact runs the members in one transaction.
func (g *groups) transact(lane Lane, members func() []*member) error {
	return g.engine.Mutate(context.Background(), lane, "", func(t *Tx) error {
		for _, m := range members() {
			if m.err = m.ctx.Err(); m.err != nil {
				continue
			}
			t.Actor = m.actor
			if err := cmp.Or(m.do(t), t.Err); err != nil {
				return err
			}
		}
		return nil
	})
}

// finish wakes the callers.
func finish(members []*member, err error) {
	for _, m := range members {
		if m.err == nil {
			m.err = err
		}
		close(m.done)
	}
}

// stop refuses further mutations, and waits for those in flight.
func (g *groups) stop() {
	g.mu.Lock()
	g.stopped = true
	g.mu.Unlock()
	g.work.Wait()
}

// Joined returns how many mutations wait in a lane, in groups or alone.
func (s *Core) Joined(lane Lane) int {
	s.groups.mu.Lock()
	defer s.groups.mu.Unlock()
	return s.groups.waiting[lane]
}
