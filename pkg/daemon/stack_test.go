package daemon

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// recordStop returns a component that appends its name when it is stopped.
func recordStop(name string, into *[]string) Component {
	return Component{Name: name, Stop: func(context.Context) error { *into = append(*into, name); return nil }}
}

func TestStackStopsFromTop(t *testing.T) {
	var order []string
	s := newStack(zap.NewNop())
	for _, name := range []string{"store", "cache", "server"} {
		s.add(recordStop(name, &order))
	}
	if err := s.stop(time.Second); err != nil {
		t.Error(err)
	}
	if want := []string{"server", "cache", "store"}; !slices.Equal(order, want) {
		t.Errorf("stopped in the order %v, want %v", order, want)
	}
}

// TestComponentWithoutStop: it ends with its context, which ends when it is its turn.
func TestComponentWithoutStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStack(zap.NewNop())
		var order []string
		s.add(Component{Name: "below", Run: func(ctx context.Context) error {
			<-ctx.Done()
			order = append(order, "below")
			return ctx.Err()
		}})
		s.add(recordStop("above", &order))
		if err := s.stop(time.Second); err != nil {
			t.Error(err)
		}
		if want := []string{"above", "below"}; !slices.Equal(order, want) {
			t.Errorf("ended in the order %v, want %v", order, want)
		}
	})
}

// TestHangingComponent: a component that hangs is abandoned within the limit and leaves time for those
// below.
func TestHangingComponent(t *testing.T) {
	for name, hang := range map[string]Component{
		"obeys its context":   {Stop: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }},
		"ignores its context": {Stop: func(context.Context) error { <-time.After(time.Hour); return nil }},
		"run ignores it":      {Run: func(context.Context) error { <-time.After(time.Hour); return nil }},
	} {
		synctest.Test(t, func(t *testing.T) {
			core, logs := observer.New(zap.WarnLevel)
			s := newStack(zap.New(core))
			var left time.Duration
			s.add(Component{Name: "store", Stop: func(ctx context.Context) error {
				end, _ := ctx.Deadline()
				left = time.Until(end)
				return nil
			}})
			hang.Name = "hangs"
			s.add(hang)
			began := time.Now()
			if err := s.stop(10 * time.Second); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if took := time.Since(began); took > 8*time.Second || left < 1400*time.Millisecond {
				t.Errorf("%s: took %v of 10s and left %v for the component below", name, took, left)
			}
			if all := logs.All(); len(all) != 1 || all[0].ContextMap()["component"] != "hangs" {
				t.Errorf("%s: logged %v", name, all)
			}
			<-time.After(2 * time.Hour) // the component must end within the bubble
		})
	}
}

func TestFailedStop(t *testing.T) {
	core, logs := observer.New(zap.ErrorLevel)
	s := newStack(zap.New(core))
	stopped := false
	s.add(Component{Name: "lowest", Stop: func(context.Context) error { stopped = true; return nil }})
	s.add(Component{Name: "fails", Stop: func(context.Context) error { return errors.New("disk full") }})
	s.add(Component{Name: "panics", Stop: func(context.Context) error { panic("hunter2") }})
	err := s.stop(time.Second)
	if err == nil || !strings.Contains(err.Error(), "fails: disk full") || !strings.Contains(err.Error(), "panics: panic: string") {
		t.Errorf("got %v", err)
	}
	if !stopped {
		t.Error("the lowest component was not stopped")
	}
	if logs.Len() != 2 || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("logged %v", logs.All())
	}
}

func TestExitIsReportedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.ErrorLevel)
		s := newStack(zap.New(core))
		for range 3 {
			s.add(Component{Name: "exits", Run: func(context.Context) error { return errors.New("gone") }})
		}
		synctest.Wait()
		if c := <-s.exited; c.Name != "exits" || c.err == nil {
			t.Errorf("got %v", c)
		}
		if err := s.stop(time.Second); err != nil || logs.Len() != 0 {
			t.Errorf("the stop reported the exit again: %v, %v", err, logs.All())
		}
	})
}
