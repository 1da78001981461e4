package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

func testChanges(e *env) {
	empty := e.head()
	if empty.Epoch == "" || empty.Revision != 0 || !empty.NotBefore.IsZero() {
		e.Fatalf("the head of an empty store is %+v", empty)
	}
	all := []keystore.Change{}
	window := func(after int64, limit int, want []keystore.Change) {
		e.Helper()
		head, got, err := e.Changes(e.ctx, empty.Epoch, after, limit)
		e.ok(err)
		e.same(fmt.Sprintf("changes after %d, at most %d", after, limit), got, want)
		e.same("head", head.Revision, int64(len(all)))
	}
	window(0, 10, all)
	a := e.account()
	all = append(all, keystore.Change{Revision: 1, Account: a.ID})
	for i := range 5 {
		all = append(all, keystore.Change{Revision: int64(i + 2), Digest: e.key(a.ID).Digest})
	}
	e.setState(a, credential.Terminated)
	all = append(all, keystore.Change{Revision: 7, Account: a.ID})
	for after := range len(all) + 1 {
		for limit := 1; limit <= len(all)+1; limit++ {
			window(int64(after), limit, all[after:min(after+limit, len(all))])
		}
	}
	gone := func(epoch string, after int64) {
		e.Helper()
		head, _, err := e.Changes(e.ctx, epoch, after, 10)
		e.is(err, keystore.ErrGone)
		e.same("the head with ErrGone", head.Revision, int64(len(all)))
		e.same("the epoch with ErrGone", head.Epoch, empty.Epoch)
	}
	gone("", 0)
	gone(empty.Epoch+"x", 7)
	gone(empty.Epoch, 8)
	gone(empty.Epoch, -1)
}

func testChanged(e *env) {
	a := e.account()
	k, s := e.key(a.ID), e.session(a.ID, time.Hour)
	wakes := func(what string, do func()) {
		e.Helper()
		changed := e.Changed()
		select {
		case <-changed:
			e.Fatalf("%s: the channel was closed before", what)
		default:
		}
		do()
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			e.Fatalf("%s did not close the channel", what)
		}
	}
	poll := keystore.Poll{Sidecar: "s", Epoch: e.head().Epoch, Lease: time.Second}
	wakes("a mint", func() { e.key(a.ID) })
	wakes("a roll", func() { e.rolled(k, 0) })
	wakes("a session's end", func() { e.end(s.ID) })
	wakes("a termination", func() { e.setState(a, credential.Terminated) })
	wakes("a first poll", func() { e.ok(e.record(poll)) })
	poll.Revision = e.head().Revision
	wakes("an acknowledgement", func() { e.ok(e.record(poll)) })
	poll.Leave = true
	wakes("a sidecar's leave", func() { e.ok(e.record(poll)) })
	poll.Sidecar, poll.Leave = "t", false
	e.ok(e.record(poll))
	wakes("a forgotten sidecar", func() { _, err := e.Forget(e.ctx, actor, "t"); e.ok(err) })
	wakes("a new epoch", func() { e.newEpoch(0) })
}

func (e *env) newEpoch(wait time.Duration) keystore.Head {
	e.Helper()
	head, err := e.NewEpoch(e.ctx, wait)
	e.ok(err)
	return head
}

const (
	writers   = 8
	followers = 3
	rounds    = 3
	perRound  = 9 // revisions
)

// testWritersAndFollowers: revisions are dense and appear in order, so that no follower misses a change, in whatever order
// many writers commit.
func testWritersAndFollowers(e *env) {
	ctx, cancel := context.WithTimeout(e.ctx, time.Minute)
	defer cancel()
	a := e.account()
	start := e.head()
	end := start.Revision + writers*rounds*perRound
	made := &ledger{changes: map[int64]credential.Digest{}}
	g, ctx := errgroup.WithContext(ctx)
	for w := range writers {
		g.Go(func() error {
			for r := range rounds {
				if err := made.writeRound(ctx, e.Store, a.ID, fmt.Sprintf("w%d_%d", w, r)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	seen := make([][]keystore.Change, followers)
	for f := range followers {
		g.Go(func() (err error) {
			seen[f], err = follow(ctx, e.Store, start, end, 2*f+1)
			return err
		})
	}
	e.ok(g.Wait())
	e.same("revision", e.head().Revision, end)
	for _, changes := range seen {
		for i, c := range changes {
			e.same("revision of a change", c.Revision, start.Revision+int64(i)+1)
			e.same("digest of a change", c.Digest, made.changes[c.Revision])
		}
		e.same("changes seen", int64(len(changes)), end-start.Revision)
	}
	e.same("revisions returned to writers", int64(len(made.changes)), end-start.Revision)
}

// ledger has the changes that writers made.
type ledger struct {
	mu      sync.Mutex
	changes map[int64]credential.Digest
}

func (l *ledger) note(revision int64, d credential.Digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changes[revision] = d
}

func (l *ledger) writeRound(ctx context.Context, s keystore.Store, account, id string) error {
	k, err := s.CreateKey(ctx, actor, keystore.NewKey{ID: "key_" + id, Account: account, Digest: digestOf(id)})
	if err != nil {
		return err
	}
	l.note(k.Revision, k.Digest)
	if k, err = s.SetKeyScope(ctx, actor, k.ID, "x", true); err != nil {
		return err
	}
	l.note(k.Revision, k.Digest)
	next, old, err := s.RollKey(ctx, actor, keystore.Roll{ID: k.ID, NewID: "key_next_" + id, Digest: digestOf("next " + id)})
	if err != nil {
		return err
	}
	l.note(next.Revision, next.Digest)
	l.note(old.Revision, old.Digest)
	if next, err = s.RevokeKey(ctx, actor, next.ID, ""); err != nil {
		return err
	}
	l.note(next.Revision, next.Digest)
	session := keystore.NewSession{ID: "ses_" + id, Account: account, Digest: digestOf("session " + id), TTL: time.Hour}
	if _, err := s.CreateSession(ctx, actor, session); err != nil {
		return err
	}
	ended, err := s.EndSession(ctx, actor, session.ID)
	if err != nil {
		return err
	}
	l.note(ended.Revision, ended.Digest)
	keys := numberedKeys("key_import_"+id, account, 3)
	done, err := s.ImportKeys(ctx, actor, keys)
	for i := range keys[:done.Imported] {
		l.note(done.Revision-int64(len(keys)-1-i), keys[i].Digest)
	}
	return err
}

// numberedKeys are n keys to import.
func numberedKeys(prefix, account string, n int) []keystore.NewKey {
	keys := make([]keystore.NewKey, n)
	for i := range keys {
		id := fmt.Sprintf("%s-%d", prefix, i)
		keys[i] = keystore.NewKey{ID: id, Account: account, Label: "imported", Digest: digestOf(id)}
	}
	return keys
}

// follow reads the log up to the revision end as a sidecar does. It checks for each revision that its change can be seen.
func follow(ctx context.Context, s keystore.Store, from keystore.Head, end int64, limit int) ([]keystore.Change, error) {
	var seen []keystore.Change
	for at := from.Revision; at < end; {
		changed := s.Changed()
		head, changes, err := s.Changes(ctx, from.Epoch, at, limit)
		if err != nil {
			return seen, err
		}
		if len(changes) == 0 && head.Revision > at {
			return seen, fmt.Errorf("the head is %d and nothing follows %d", head.Revision, at)
		}
		for _, c := range changes {
			if c.Revision != at+1 || c.Revision > head.Revision {
				return seen, fmt.Errorf("revision %d follows %d, the head is %d", c.Revision, at, head.Revision)
			}
			at = c.Revision
			resolved, facts, err := s.Resolve(ctx, []credential.Digest{c.Digest})
			if err != nil {
				return seen, err
			}
			if !facts[0].Found || resolved.Revision < at {
				return seen, fmt.Errorf("after revision %d resolve returns %+v at %d", at, facts[0], resolved.Revision)
			}
		}
		seen = append(seen, changes...)
		if len(changes) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			return seen, fmt.Errorf("no notification after revision %d", at)
		case <-ctx.Done():
			return seen, ctx.Err()
		}
	}
	return seen, nil
}

// testManySidecars: of many sidecars that a change waits for, the first are named and all are counted.
func testManySidecars(e *env) {
	a := e.account()
	epoch := e.head().Epoch
	var g errgroup.Group
	const sidecars = 2*keystore.MaxWaitingFor + 7
	for i := range sidecars {
		p := keystore.Poll{Sidecar: fmt.Sprintf("s%03d", i), Epoch: epoch, Revision: 1, Lease: time.Minute, MaxStale: time.Duration(i) * time.Minute}
		g.Go(func() error { return e.record(p) })
	}
	e.ok(g.Wait())
	e.key(a.ID)
	check := func() {
		e.Helper()
		head, list := e.sidecars()
		_, got, err := e.Progress(e.ctx, 2)
		e.ok(err)
		e.same("progress", got, keystore.ProgressOf(2, head, list))
		e.same("names", len(got.WaitingFor), min(got.Waiting, keystore.MaxWaitingFor))
	}
	check()
	for _, revision := range []int64{2, 1} { // one acknowledges; the poll of another is answered with the change
		p := keystore.Poll{Sidecar: fmt.Sprintf("s%03d", revision), Epoch: epoch, Revision: revision, Lease: time.Hour, MaxStale: time.Hour}
		e.ok(e.record(p))
		check()
	}
	e.harness.Advance(sidecars * time.Minute)
	check()
	e.harness.Advance(time.Minute)
	e.waitsFor()
}

// later reports whether a change was effective before and is not now, or becomes effective later than stated before.
func later(before, now keystore.Progress) bool {
	return before.Effective && !now.Effective || !before.Effective && now.EffectiveBy.After(before.EffectiveBy)
}

// testProgressUnderPolls: while sidecars poll without a pause, some of which never acknowledge, no change becomes effective
// later than stated. A poll that is recorded concurrently with a change, without seeing it, would cause that.
func testProgressUnderPolls(e *env) {
	ctx, cancel := context.WithTimeout(e.ctx, time.Minute)
	defer cancel()
	a := e.account()
	epoch := e.head().Epoch
	var polls errgroup.Group
	var stop atomic.Bool
	for i := range 4 {
		polls.Go(func() error { return pollOn(ctx, e.Store, fmt.Sprint("sidecar_", i), epoch, i%2 == 0, &stop) })
	}
	stated := map[int64]keystore.Progress{}
	for range 40 {
		e.key(a.ID)
		head, sidecars := e.sidecars()
		for revision := int64(1); revision <= head.Revision; revision++ {
			now := keystore.ProgressOf(revision, head, sidecars)
			if before, ok := stated[revision]; ok && later(before, now) {
				e.Fatalf("the progress of change %d was %+v, and then %+v", revision, before, now)
			}
			stated[revision] = now
		}
	}
	stop.Store(true)
	e.ok(polls.Wait())
}

// pollOn polls until it is stopped. If silent, it acknowledges nothing until it gets no lease.
func pollOn(ctx context.Context, s keystore.Store, name, epoch string, silent bool, stop *atomic.Bool) error {
	after := int64(0)
	for !stop.Load() {
		p := keystore.Poll{Sidecar: name, Epoch: epoch, Revision: after, Number: lastPoll.Add(1), Limit: 1000, Lease: time.Minute}
		head, _, err := s.RecordPoll(ctx, p)
		gone := errors.Is(err, keystore.ErrGone)
		if err != nil && !gone {
			return err
		}
		if gone || !silent {
			after = head.Revision
		}
	}
	return nil
}
