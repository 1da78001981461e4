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

// The model of the tail is the whole log. What the tail tells is a run of it, from the
// revision asked for on and without a gap; what it does not know it does not tell.
func TestTail(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tail := newTail()
		epoch, head := "one", int64(0)
		known := int64(0) // the tail must tell what comes after this
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
				next := head + int64(rapid.SampledFrom([]int{1, 2, 1000, keptChanges}).Draw(t, "by"))
				tail.update(keystore.Head{Epoch: epoch, Revision: next}, changes(head, next))
				if before.Epoch != epoch { // the first
					known = next
				}
				head = next
			case "skip": // and what was read is not what joins
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
			if told(moved) != (end != before) {
				t.Fatalf("from %v to %v: woken %t", before, end, told(moved))
			}
			checkTail(t, tail, end, max(known, head-keptChanges))
		}
	})
}

func told(moved <-chan struct{}) bool {
	select {
	case <-moved:
		return true
	default:
		return false
	}
}

func checkTail(t *rapid.T, tail *tail, end keystore.Head, known int64) {
	const limit = 1000
	after := rapid.Int64Range(max(0, end.Revision-2*limit), end.Revision+1).Draw(t, "after")
	got, list, ok := tail.after(after, limit, end)
	if !ok {
		if end.Epoch != "" && after >= known && after <= end.Revision {
			t.Fatalf("%d is not known, of %d to %d", after, known, end.Revision)
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
			t.Fatalf("told to one who has seen %v", seen)
		}
	}
}

// overtaken has something change just before each poll is recorded, and notes what is
// asked of it.
type overtaken struct {
	keystore.Store
	change func()
	calls  []string
}

func (o *overtaken) RecordPoll(ctx context.Context, p keystore.Poll) (keystore.Head, time.Duration, error) {
	if o.change != nil {
		o.change()
	}
	o.calls = append(o.calls, "RecordPoll")
	return o.Store.RecordPoll(ctx, p)
}

func (o *overtaken) Changes(ctx context.Context, epoch string, after int64, limit int) (keystore.Head, []keystore.Change, error) {
	o.calls = append(o.calls, "Changes")
	return o.Store.Changes(ctx, epoch, after, limit)
}

// setUpOvertaken is an idle server with one account, over such a store.
func setUpOvertaken(t *testing.T) (f *fixture, store *overtaken) {
	t.Helper()
	f = setUpIdle(t, filepath.Join(t.TempDir(), "keys.db"), func(s keystore.Store) keystore.Store {
		store = &overtaken{Store: s}
		return store
	})
	f.account("a")
	return f, store
}

// catchUpNow does what follow does when the store has changed.
func (f *fixture) catchUpNow() {
	f.t.Helper()
	if err := f.catchUp(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
}

// What was committed before the poll was recorded may be effective without it, and so
// must be in the answer, whatever is in memory.
func TestPollIsRecordedBeforeTheLogIsRead(t *testing.T) {
	f, store := setUpOvertaken(t)
	epoch, head := f.begun("s", "")
	f.catchUpNow()
	store.calls = nil
	f.poll("s", head, epoch, "").want(200)
	if got := strings.Join(store.calls, " "); got != "RecordPoll" {
		t.Errorf("nothing has changed: %s", got)
	}
	store.calls, store.change = nil, func() { f.key("a", "") }
	if got := len(f.poll("s", head, epoch, "").want(200).at("changes").([]any)); got != 1 {
		t.Errorf("%d changes", got)
	}
	if got := strings.Join(store.calls, " "); got != "RecordPoll Changes" {
		t.Errorf("order: %s", got)
	}
}

// What changes is read once for all polls that wait, and not at all if there is none.
func TestTailIsReadForThoseWhoWait(t *testing.T) {
	f, store := setUpOvertaken(t)
	epoch, head := f.begun("s", "")
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
