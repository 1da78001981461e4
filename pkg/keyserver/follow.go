package keyserver

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

const (
	// lookAgain stands behind the store's wake-ups, which may be late or lost.
	lookAgain = time.Second
	// lull is the least time between two looks that wake-ups cause: when thousands of
	// sidecars acknowledge at once, each acknowledgement is a wake-up.
	lull = 2 * time.Millisecond

	housekeeping = time.Minute
)

// tail is where the log ends, as last seen. One loop looks for all long polls and
// wakes them only when the log has moved: the store's own wake-ups also come with
// every acknowledgement, and so with every poll.
type tail struct {
	mu    *sync.Mutex
	head  keystore.Head
	moved chan struct{}
}

func newTail() tail { return tail{mu: new(sync.Mutex), moved: make(chan struct{})} }

// next returns a channel that is closed when the log is seen to have moved. Take it
// first, then look, then wait.
func (t *tail) next() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.moved
}

func (t *tail) see(head keystore.Head) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if head.Epoch == t.head.Epoch && head.Revision == t.head.Revision {
		return
	}
	t.head = head
	close(t.moved)
	t.moved = make(chan struct{})
}

// follow keeps the tail until ctx ends.
func (s *Server) follow(ctx context.Context) {
	for ctx.Err() == nil {
		changed := s.store.Changed()
		if head, err := s.head(ctx); err == nil {
			s.tail.see(head)
			s.metrics.revision.Set(float64(head.Revision))
		} else if ctx.Err() == nil {
			s.storeFailed("follow", err)
		}
		pause(ctx, lull, nil)
		pause(ctx, lookAgain, changed)
	}
}

func (s *Server) head(ctx context.Context) (keystore.Head, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return s.store.Head(ctx)
}

// keepHouse prunes the store and counts the sidecars until ctx ends.
func (s *Server) keepHouse(ctx context.Context) {
	for ctx.Err() == nil {
		s.tidy(ctx)
		pause(ctx, housekeeping, nil)
	}
}

func (s *Server) tidy(ctx context.Context) {
	// Pruning after a long rest may take a while; it must not go on into the next round.
	ctx, cancel := context.WithTimeout(ctx, housekeeping)
	defer cancel()
	if err := s.store.Prune(ctx, s.settings.Load().LogRetention); err != nil && ctx.Err() == nil {
		s.storeFailed("prune", err)
	}
}

func (s *Server) storeFailed(where string, err error) {
	s.metrics.storeErrors.WithLabelValues(where).Inc()
	s.log.Error("the store failed", zap.String("at", where), zap.Error(err))
}

// pause waits for so long, or until wake or ctx ends it.
func pause(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-wake:
	case <-ctx.Done():
	}
}
