package keyserver

import (
	"context"
	"errors"
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
	// countAgain is the time between two counts of the sidecars. Smaller reads the record more
	// often; larger makes the metric older.
	countAgain = 10 * time.Second
)

// follow keeps the tail until ctx ends.
func (s *Server) follow(ctx context.Context) {
	for ctx.Err() == nil {
		changed := s.store.Changed()
		if err := s.catchUp(ctx); err != nil && ctx.Err() == nil {
			s.storeFailed("follow", err)
		}
		pause(ctx, lull, nil)
		pause(ctx, lookAgain, changed)
	}
}

// catchUp reads what the tail lacks. If that is more than it keeps, or nobody waits for it, it
// begins anew: who then asks for what it does not have reads the store himself.
func (s *Server) catchUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	head, err := s.store.Head(ctx)
	if err != nil {
		return err
	}
	var since []keystore.Change
	last := s.tail.end()
	if n := head.Revision - last.Revision; head.Epoch == last.Epoch && n > 0 && n <= keptChanges && s.waiting.Load() > 0 {
		head, since, err = s.store.Changes(ctx, last.Epoch, last.Revision, keptChanges)
		if err != nil && !errors.Is(err, keystore.ErrGone) {
			return err
		}
	}
	s.tail.see(head, since)
	s.metrics.revision.Set(float64(head.Revision))
	return nil
}

// keepHouse prunes the store until ctx ends.
func (s *Server) keepHouse(ctx context.Context) {
	for ctx.Err() == nil {
		s.tidy(ctx)
		pause(ctx, housekeeping, nil)
	}
}

// keepCount counts the sidecars until ctx ends.
func (s *Server) keepCount(ctx context.Context) {
	for ctx.Err() == nil {
		if err := s.countSidecars(ctx); err != nil && ctx.Err() == nil {
			s.storeFailed("count", err)
		}
		pause(ctx, countAgain, nil)
	}
}

func (s *Server) tidy(ctx context.Context) {
	// Pruning after a long rest may take a while; it must not go on into the next round.
	ctx, cancel := context.WithTimeout(ctx, housekeeping)
	defer cancel()
	if err := s.store.Prune(ctx, s.settings.Load().LogRetention); err != nil && ctx.Err() == nil {
		s.storeFailed("prune", err)
	}
	s.tail.forget() // it must not reach further back than the log
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
