package daemon

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

// stack is what runs, lowest first.
type stack struct {
	log *zap.Logger
	// died has the first part whose Run has returned without being told to.
	died chan *part

	mu    sync.Mutex
	parts []*part
}

// part is a component that was started.
type part struct {
	Component
	cancel context.CancelFunc
	done   chan struct{} // closed when Run has returned
	err    error         // of Run, once done
	told   chan struct{} // closed when it is told to stop
}

func newStack(log *zap.Logger) *stack {
	return &stack{log: log, died: make(chan *part, 1)}
}

func (s *stack) add(c Component) {
	ctx, cancel := context.WithCancel(context.Background())
	p := &part{Component: c, cancel: cancel, done: make(chan struct{}), told: make(chan struct{})}
	s.mu.Lock()
	s.parts = append(s.parts, p)
	s.mu.Unlock()
	if c.Run == nil {
		close(p.done)
		return
	}
	go func() {
		p.err = guard(func() error { return c.Run(ctx) })
		close(p.done)
		if isClosed(p.told) {
			return
		}
		select {
		case s.died <- p:
		default: // the program stops already for another one's sake
		}
	}()
}

// stop stops all parts from the top, within limit. Each may take seven tenths of
// what is left to let its work end and another tenth to break it off, so that one
// that hangs leaves time for those below. The error joins what went wrong; work that
// was broken off is logged, but no error.
func (s *stack) stop(limit time.Duration) error {
	end := time.Now().Add(limit)
	s.mu.Lock()
	parts := slices.Clone(s.parts)
	s.parts = nil
	s.mu.Unlock()
	var all []error
	for _, p := range slices.Backward(parts) {
		left := time.Until(end)
		err := p.stop(left*7/10, left*8/10)
		log := s.log.With(zap.String("component", p.Name))
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			log.Warn("the drain time is over, what was under way has been cut off")
		case err != nil:
			log.Error("a component has failed to stop", failure(err)...)
			all = append(all, errors.New(p.Name+": "+err.Error()))
		default:
			log.Debug("stopped")
		}
	}
	return errors.Join(all...)
}

// stop stops one part: gently until soft is over, and it is left behind after hard.
func (p *part) stop(soft, hard time.Duration) error {
	ended := isClosed(p.done) // by itself, which has been told before
	close(p.told)
	defer p.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), soft)
	defer cancel()
	left := time.NewTimer(hard)
	defer left.Stop()
	stopped := make(chan error, 1)
	go func() {
		if p.Stop == nil {
			stopped <- nil
			return
		}
		stopped <- guard(func() error { return p.Stop(ctx) })
	}()
	var err error
	select {
	case err = <-stopped:
	case <-left.C:
		return context.DeadlineExceeded
	}
	p.cancel()
	select {
	case <-p.done:
	case <-left.C:
		return errors.Join(err, context.DeadlineExceeded)
	}
	if err == nil && !ended && !errors.Is(p.err, context.Canceled) {
		err = p.err
	}
	return err
}

// failure is the log fields of an error.
func failure(err error) []zap.Field {
	fields := []zap.Field{zap.Error(err)}
	var p *panicked
	if errors.As(err, &p) {
		fields = append(fields, zap.String("at", p.stack))
	}
	return fields
}
