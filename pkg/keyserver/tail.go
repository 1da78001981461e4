package keyserver

import (
	"sync"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

// keptChanges is how many of the last changes are kept in memory, a MiB at most: more
// than one part of a bulk import.
const keptChanges = 16 << 10

// tail is the end of the log, as last seen. One loop reads it for all long polls, and
// wakes them only when the log has moved: the store's own wake-ups also come with
// every acknowledgement, and so with every poll.
type tail struct {
	mu    sync.Mutex
	head  keystore.Head
	list  []keystore.Change // without a gap up to the head; what is in it is never written again
	moved chan struct{}
}

func newTail() *tail { return &tail{moved: make(chan struct{})} }

// next returns a channel that is closed when the log is seen to have moved. Take it
// first, then look, then wait.
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

// see takes up a head with the changes since the last one, or without them.
func (t *tail) see(head keystore.Head, since []keystore.Change) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if head.Epoch == t.head.Epoch && head.Revision == t.head.Revision {
		return
	}
	joins := head.Epoch == t.head.Epoch && head.Revision == t.head.Revision+int64(len(since))
	switch {
	case !joins:
		t.list = nil
	case len(t.list)+len(since) <= 2*keptChanges:
		t.list = append(t.list, since...)
	default:
		all := append(t.list, since...)
		t.list = append(make([]keystore.Change, 0, 2*keptChanges), all[len(all)-keptChanges:]...)
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

// after returns at most limit changes after the revision and the head that they are of,
// if they are known and the head is not before the one that the caller has seen.
func (t *tail) after(revision int64, limit int, seen keystore.Head) (keystore.Head, []keystore.Change, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	missing := t.head.Revision - revision
	if t.head.Epoch != seen.Epoch || t.head.Revision < seen.Revision || missing < 0 || missing > int64(len(t.list)) {
		return keystore.Head{}, nil, false
	}
	list := t.list[len(t.list)-int(missing):]
	return t.head, list[:min(limit, len(list)):min(limit, len(list))], true
}
