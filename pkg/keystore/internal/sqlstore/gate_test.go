package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// order runs calls that wait at a full gate, and returns the order in which they are admitted.
func order(size int, calls ...Lane) (admitted []string) {
	g := NewGate(size)
	for range size { // it is full
		if err := g.Enter(context.Background(), LanePolls); err != nil {
			panic(err)
		}
	}
	var mu sync.Mutex
	var work sync.WaitGroup
	for i, lane := range calls {
		work.Go(func() {
			if err := g.Enter(context.Background(), lane); err != nil {
				panic(err)
			}
			mu.Lock()
			admitted = append(admitted, fmt.Sprintf("%c%d", "pox"[lane], i))
			mu.Unlock()
			<-time.After(time.Second) // one after the other
			g.Leave()
		})
		synctest.Wait()
	}
	for range size {
		g.Leave()
	}
	work.Wait()
	return admitted
}

func TestGateAdmitsByLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := order(1, LaneOthers, LaneOperators, LaneOthers, LanePolls, LaneOperators, LanePolls)
		if want := []string{"p3", "p5", "o1", "o4", "x0", "x2"}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

// A waiting lane is passed over at most patience times.
func TestGateAdmitsHigherLanesAfterPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := []Lane{LaneOthers, LaneOthers}
		for range 3 * patience {
			calls = append(calls, LaneOperators)
		}
		got := order(1, calls...)
		if first, second := slices.Index(got, "x0"), slices.Index(got, "x1"); first != patience || second != 2*patience+1 {
			t.Errorf("admitted as number %d and %d: %v", first, second, got)
		}
	})
}

// One place of a gate for several is for polls only. Other callers are admitted one after the other.
func TestGateReservesAPlaceForPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(2)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.Enter(ctx, LaneOthers); err != nil {
			t.Fatal(err)
		}
		if err := g.Enter(ctx, LaneOperators); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a second change was admitted: %v", err)
		}
		if err := g.Enter(t.Context(), LanePolls); err != nil {
			t.Error(err)
		}
		g.Leave()
		g.Leave()
		if err := g.Enter(t.Context(), LaneOperators); err != nil {
			t.Error(err)
		}
		g.Leave()
	})
}

// A caller whose context ends leaves nothing behind, also when it is admitted at the same moment.
func TestGateRemovesCanceledCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(1)
		for range 200 {
			if err := g.Enter(t.Context(), LanePolls); err != nil {
				t.Fatal(err)
			}
			var work sync.WaitGroup
			for lane := range lanes {
				work.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					if err := g.Enter(ctx, lane); err == nil {
						g.Leave()
					} else if !errors.Is(err, context.DeadlineExceeded) {
						t.Error(err)
					}
				})
			}
			<-time.After(time.Second) // as long as they wait
			g.Leave()
			work.Wait()
		}
		if g.room != 1 || len(g.queues[0])+len(g.queues[1])+len(g.queues[2]) > 0 {
			t.Errorf("room %d, queues %v", g.room, g.queues)
		}
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		if err := g.Enter(canceled, LanePolls); !errors.Is(err, context.Canceled) {
			t.Errorf("entered with %v", err)
		}
	})
}

func TestLanes(t *testing.T) {
	for actor, want := range map[string]Lane{"operator:alice": LaneOperators, "owner:a": LaneOthers, "": LaneOthers, "owner:operator:": LaneOthers} {
		if got := laneOf(actor); got != want {
			t.Errorf("%q is in lane %d, want %d", actor, got, want)
		}
	}
}
