package keyserver

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

const (
	// keptChanges is how many of the newest changes are kept in memory, up to a MiB: more than one part of a bulk
	// import has. Fewer makes sidecars that are behind read the store; more costs memory.
	keptChanges = 16 << 10
	// minFollowPause is the shortest time between two reads of the log. Thousands of sidecars acknowledge at the same
	// time, and each acknowledgement is a signal of the store. Smaller costs the store more reads; larger delays
	// every change.
	minFollowPause = 2 * time.Millisecond
)

// follow keeps the tail up to date until ctx ends.
func (s *Server) follow(ctx context.Context) {
	for ctx.Err() == nil {
		signal := s.store.Changed()
		if err := s.catchUp(ctx); err != nil && ctx.Err() == nil {
			s.storeFailed(followLoop, err)
		}
		pause(ctx, minFollowPause, nil, nil)
		pause(ctx, checkInterval, signal, nil)
	}
}

// catchUp reads the changes that the tail does not have. If they are more than it keeps, or no poll waits for them,
// the tail starts again at the head. Polls that need older changes read the store.
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
	s.tail.update(head, since)
	s.pending.note(head, time.Now())
	s.metrics.revision.Set(float64(head.Revision))
	return nil
}

// tail is the end of the log in memory. One loop reads it for all long polls and wakes them only when the log has
// moved. The signals of the store also come with every acknowledgement, and so with every poll.
type tail struct {
	mu    sync.Mutex
	head  keystore.Head
	list  []keystore.Change // without a gap up to the head; its elements never change
	kept  int
	moved chan struct{}
}

func newTail(kept int) *tail { return &tail{kept: kept, moved: make(chan struct{})} }

// next returns a channel that is closed at the next move of the log. Get it first, then read, then wait.
func (t *tail) next() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.moved
}

func (t *tail) end() keystore.Head {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.head
}

// update sets the head. since is the changes since the last head, or empty.
func (t *tail) update(head keystore.Head, since []keystore.Change) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if head.Epoch == t.head.Epoch && head.Revision == t.head.Revision {
		return
	}
	joins := head.Epoch == t.head.Epoch && head.Revision == t.head.Revision+int64(len(since))
	switch {
	case !joins:
		t.list = nil
	case len(t.list)+len(since) <= 2*t.kept:
		t.list = append(t.list, since...)
	default:
		all := append(t.list, since...)
		t.list = append(make([]keystore.Change, 0, 2*t.kept), all[len(all)-t.kept:]...)
	}
	t.head = head
	close(t.moved)
	t.moved = make(chan struct{})
}

// forget drops the changes and keeps the head.
func (t *tail) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = nil
}

// after returns at most limit changes after the revision, and the head. It returns false if it does not have them
// all, or if its head is older than the one that the caller has seen.
func (t *tail) after(revision int64, limit int, seen keystore.Head) (keystore.Head, []keystore.Change, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	missing := t.head.Revision - revision
	if t.head.Epoch != seen.Epoch || t.head.Revision < seen.Revision || missing < 0 || missing > int64(len(t.list)) {
		return keystore.Head{}, nil, false
	}
	list := t.list[len(t.list)-int(missing):]
	n := min(limit, len(list))
	return t.head, list[:n:n], true
}
