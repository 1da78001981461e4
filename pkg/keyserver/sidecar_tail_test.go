package keyserver

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

const kept = 16 // changes of the tail in TestTail

// The model is the whole log. The tail returns the changes after a revision without a gap, or nothing.
func TestTail(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tail := newTail(kept)
		epoch, head := "one", int64(0)
		known := int64(0) // the tail must have the changes after this revision
		changes := func(after, until int64) (list []keystore.Change) {
			for r := after + 1; r <= until; r++ {
				list = append(list, keystore.Change{Revision: r})
			}
			return list
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			before, moved := tail.end(), tail.next()
			switch rapid.SampledFrom([]string{"grow", "grow", "grow", "skip", "epoch", "back", "forget", "again"}).Draw(t, "step") {
			case "grow":
				next := head + int64(rapid.SampledFrom([]int{1, 2, kept / 2, kept}).Draw(t, "by"))
				tail.update(keystore.Head{Epoch: epoch, Revision: next}, changes(head, next))
				if before.Epoch != epoch { // the first update
					known = next
				}
				head = next
			case "skip": // the changes do not follow the head
				head += 3
				tail.update(keystore.Head{Epoch: epoch, Revision: head}, changes(head-2, head))
				known = head
			case "epoch":
				epoch += "x"
				tail.update(keystore.Head{Epoch: epoch, Revision: head}, nil)
				known = head
			case "back":
				head = max(0, head-2)
				tail.update(keystore.Head{Epoch: epoch, Revision: head}, nil)
				known = head
			case "forget":
				tail.forget()
				known = head
			case "again":
				tail.update(tail.end(), nil)
			}
			end := tail.end()
			if isClosed(moved) != (end != before) {
				t.Fatalf("from %v to %v: woken %t", before, end, isClosed(moved))
			}
			checkTail(t, tail, end, max(known, head-kept))
		}
	})
}

func isClosed(moved <-chan struct{}) bool {
	select {
	case <-moved:
		return true
	default:
		return false
	}
}

func checkTail(t *rapid.T, tail *tail, end keystore.Head, known int64) {
	const limit = kept * 3 / 4
	after := rapid.Int64Range(max(0, end.Revision-2*limit), end.Revision+1).Draw(t, "after")
	got, list, ok := tail.after(after, limit, end)
	if !ok {
		if end.Epoch != "" && after >= known && after <= end.Revision {
			t.Fatalf("no changes after %d, of %d to %d", after, known, end.Revision)
		}
		return
	}
	if got != end || int64(len(list)) != min(limit, end.Revision-after) {
		t.Fatalf("after %d: head %v, %d changes", after, got, len(list))
	}
	for i, c := range list {
		if c.Revision != after+int64(i)+1 {
			t.Fatalf("after %d: change %d is revision %d", after, i, c.Revision)
		}
	}
	for _, seen := range []keystore.Head{{Epoch: end.Epoch, Revision: end.Revision + 1}, {Epoch: end.Epoch + "y"}} {
		if _, _, ok := tail.after(after, limit, seen); ok {
			t.Fatalf("returned to a caller that has seen %v", seen)
		}
	}
}

// changedBeforePoll makes a change just before each poll is recorded, and notes the calls.
type changedBeforePoll struct {
	keystore.Store
	change func()
	calls  []string
}

func (o *changedBeforePoll) RecordPoll(ctx context.Context, p keystore.Poll) (keystore.Head, time.Duration, error) {
	if o.change != nil {
		o.change()
	}
	o.calls = append(o.calls, "RecordPoll")
	return o.Store.RecordPoll(ctx, p)
}

func (o *changedBeforePoll) Changes(ctx context.Context, epoch string, after int64, limit int) (keystore.Head, []keystore.Change, error) {
	o.calls = append(o.calls, "Changes")
	return o.Store.Changes(ctx, epoch, after, limit)
}

// setUpChanged is an idle server with one account and such a store.
func setUpChanged(t *testing.T) (f *fixture, store *changedBeforePoll) {
	t.Helper()
	f = setUpIdle(t, filepath.Join(t.TempDir(), "keys.db"), func(s keystore.Store) keystore.Store {
		store = &changedBeforePoll{Store: s}
		return store
	})
	f.account("a")
	return f, store
}

// catchUpNow does what follow does after a change.
func (f *fixture) catchUpNow() {
	f.t.Helper()
	if err := f.catchUp(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
}

// A change that was committed before the poll was recorded may be effective without it, so the answer must have it even
// if it is not in memory.
func TestPollIsRecordedBeforeTheLogIsRead(t *testing.T) {
	f, store := setUpChanged(t)
	epoch, head := f.startSidecar("s", "")
	f.catchUpNow()
	store.calls = nil
	f.poll("s", head, epoch, "").want(200)
	if got := strings.Join(store.calls, " "); got != "RecordPoll" {
		t.Errorf("without a change: %s", got)
	}
	store.calls, store.change = nil, func() { f.key("a", "") }
	if got := len(f.poll("s", head, epoch, "").want(200).at("changes").([]any)); got != 1 {
		t.Errorf("%d changes", got)
	}
	if got := strings.Join(store.calls, " "); got != "RecordPoll Changes" {
		t.Errorf("order: %s", got)
	}
}

// Changes are read once for all waiting polls, and not if no poll waits.
func TestTailIsReadOnlyForWaitingPolls(t *testing.T) {
	f, store := setUpChanged(t)
	epoch, head := f.startSidecar("s", "")
	for _, waits := range []bool{true, false} {
		f.catchUpNow()
		f.key("a", "")
		if waits {
			f.waiting.Add(1)
		}
		store.calls = nil
		f.catchUpNow()
		if read := len(store.calls) > 0; read != waits {
			t.Errorf("a poll waits: %v, the changes were read: %v", waits, read)
		}
		store.calls = nil
		got := len(f.poll("s", head, epoch, "").want(200).at("changes").([]any))
		if fromMemory := !slices.Contains(store.calls, "Changes"); got != 1 || fromMemory != waits {
			t.Errorf("a poll waited: %v; %d changes, from memory: %v", waits, got, fromMemory)
		}
		if waits {
			f.waiting.Add(-1)
		}
		head++
	}
}
