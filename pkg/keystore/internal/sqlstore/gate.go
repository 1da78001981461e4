package sqlstore

import (
	"context"
	"slices"
	"strings"
	"sync"
)

// Lane is the priority of a mutation. A lower lane goes first.
type Lane int

// The lanes. Sidecars' polls go first, so that leases do not end while others write a lot. Operators' changes go before
// owners' changes and upkeep, so that an owner cannot delay a revocation.
const (
	LanePolls Lane = iota
	LaneOperators
	LaneOthers
	lanes
)

// laneOf returns the lane of an actor.
func laneOf(actor string) Lane {
	if strings.HasPrefix(actor, "operator:") {
		return LaneOperators
	}
	return LaneOthers
}

// patience is how many mutations of lower lanes may go before a waiting one. Smaller lets owners delay operators more often;
// larger makes owners wait longer while operators write without a pause.
const patience = 16

// Gate admits a limited number of callers at a time, by lane, and within a lane in the order of their arrival.
type Gate struct {
	mu     sync.Mutex
	room   int
	size   int
	queues [lanes][]chan struct{}
	passed [lanes]int // how many callers of lower lanes were admitted while one of this lane waited
}

// NewGate makes a Gate for size callers at a time, at least one.
func NewGate(size int) *Gate {
	size = max(1, size)
	return &Gate{room: size, size: size}
}

// Enter waits until the caller is admitted, or returns the context's error. An admitted caller must call Leave once.
func (g *Gate) Enter(ctx context.Context, lane Lane) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	g.mu.Lock()
	if g.room > g.reserved(lane) {
		g.room--
		g.mu.Unlock()
		return nil
	}
	admitted := make(chan struct{})
	g.queues[lane] = append(g.queues[lane], admitted)
	g.mu.Unlock()
	select {
	case <-admitted:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.queues[lane], admitted); i >= 0 {
		g.queues[lane] = slices.Delete(g.queues[lane], i, i+1)
	} else {
		g.leave() // the caller was admitted at the same moment
	}
	return ctx.Err()
}

// reserved is the room that only polls may use: one place, if the gate has several.
func (g *Gate) reserved(lane Lane) int { return min(int(lane), 1, g.size-1) }

// Leave makes room for the next caller.
func (g *Gate) Leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leave()
}

func (g *Gate) leave() {
	g.room++
	for {
		lane, ok := g.next()
		if !ok {
			return
		}
		close(g.queues[lane][0])
		g.queues[lane] = g.queues[lane][1:]
		g.room--
		g.passed[lane] = 0
		for later := lane + 1; later < lanes; later++ {
			if len(g.queues[later]) > 0 {
				g.passed[later]++
			}
		}
	}
}

// next returns the lane of the next caller: the lowest with one that waits, unless a higher lane was passed over too often.
func (g *Gate) next() (Lane, bool) {
	first, found := Lane(0), false
	for lane := range lanes {
		if len(g.queues[lane]) == 0 || g.room <= g.reserved(lane) {
			continue
		}
		if g.passed[lane] >= patience {
			return lane, true
		}
		if !found {
			first, found = lane, true
		}
	}
	return first, found
}

// State returns how many callers are admitted, and how many wait in each lane.
func (g *Gate) State() (admitted int, waiting [lanes]int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for lane, queue := range g.queues {
		waiting[lane] = len(queue)
	}
	return g.size - g.room, waiting
}
