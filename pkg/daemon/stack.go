package daemon

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

// stack holds the running components, lowest first.
type stack struct {
	log *zap.Logger
	// exited receives the first component whose Run has returned before its stop.
	exited chan *component

	mu         sync.Mutex
	components []*component
}

// component is a started Component.
type component struct {
	Component
	cancel   context.CancelFunc
	done     chan struct{} // closed when Run has returned
	err      error         // of Run, once done
	stopping chan struct{} // closed when its stop begins
}

func newStack(log *zap.Logger) *stack {
	return &stack{log: log, exited: make(chan *component, 1)}
}

func (s *stack) add(spec Component) {
	ctx, cancel := context.WithCancel(context.Background())
	c := &component{Component: spec, cancel: cancel, done: make(chan struct{}), stopping: make(chan struct{})}
	s.mu.Lock()
	s.components = append(s.components, c)
	s.mu.Unlock()
	if c.Run == nil {
		close(c.done)
		return
	}
	go func() {
		c.err = guard(func() error { return c.Run(ctx) })
		close(c.done)
		if isClosed(c.stopping) {
			return
		}
		select {
		case s.exited <- c:
		default: // the program stops already because of another component
		}
	}()
}

// stop stops all components from the top, within limit. Each gets seven tenths of the remaining
// time to end its work and another tenth to cancel it, so that one that hangs leaves time for those
// below. Cancelled work is logged and is not an error.
func (s *stack) stop(limit time.Duration) error {
	end := time.Now().Add(limit)
	s.mu.Lock()
	components := slices.Clone(s.components)
	s.components = nil
	s.mu.Unlock()
	var all []error
	for _, c := range slices.Backward(components) {
		left := time.Until(end)
		err := c.stop(left*7/10, left*8/10)
		log := s.log.With(zap.String("component", c.Name))
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			log.Warn("drain timeout: in-flight requests cancelled")
		case err != nil:
			log.Error("component failed to stop", failure(err)...)
			all = append(all, errors.New(c.Name+": "+err.Error()))
		default:
			log.Debug("stopped")
		}
	}
	return errors.Join(all...)
}

// stop stops the component. The context of Stop ends after soft; after hard it waits no longer.
func (c *component) stop(soft, hard time.Duration) error {
	exited := isClosed(c.done) // its error has been reported
	close(c.stopping)
	defer c.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), soft)
	defer cancel()
	timeout := time.After(hard)
	stopped := make(chan error, 1)
	go func() {
		if c.Stop == nil {
			stopped <- nil
			return
		}
		stopped <- guard(func() error { return c.Stop(ctx) })
	}()
	var err error
	select {
	case err = <-stopped:
	case <-timeout:
		return context.DeadlineExceeded
	}
	c.cancel()
	select {
	case <-c.done:
	case <-timeout:
		return errors.Join(err, context.DeadlineExceeded)
	}
	if err == nil && !exited && !errors.Is(c.err, context.Canceled) {
		err = c.err
	}
	return err
}

// failure returns the log fields of an error.
func failure(err error) []zap.Field {
	fields := []zap.Field{zap.Error(err)}
	if p, ok := errors.AsType[*panicked](err); ok {
		fields = append(fields, zap.String("at", p.stack))
	}
	return fields
}
