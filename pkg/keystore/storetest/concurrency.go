package storetest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keystore"
)

const (
	writers   = 8
	followers = 3
	rounds    = 6
	perRound  = 9 // revisions
)

// testWritersAndFollowers: revisions are dense and appear in order, so that no
// follower misses a change however the commits of many writers fall.
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
	e.same("revisions told to writers", int64(len(made.changes)), end-start.Revision)
}

// ledger is what writers were told of their changes.
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
	return l.writeImport(ctx, s, account, id)
}

func (l *ledger) writeImport(ctx context.Context, s keystore.Store, account, id string) error {
	keys := make([]keystore.NewKey, 3)
	for i := range keys {
		id := fmt.Sprintf("key_import_%s_%d", id, i)
		keys[i] = keystore.NewKey{ID: id, Account: account, Digest: digestOf(id)}
	}
	done, err := s.ImportKeys(ctx, actor, keys)
	for i := range keys[:done.Imported] {
		l.note(done.Revision-int64(len(keys)-1-i), keys[i].Digest)
	}
	return err
}

// follow reads the log up to the revision end as a sidecar does, and checks at each step that
// whoever sees a revision sees its change.
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
				return seen, fmt.Errorf("after revision %d resolve tells %+v at %d", at, facts[0], resolved.Revision)
			}
		}
		seen = append(seen, changes...)
		if len(changes) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			return seen, fmt.Errorf("nothing woke after revision %d", at)
		case <-ctx.Done():
			return seen, ctx.Err()
		}
	}
	return seen, nil
}
