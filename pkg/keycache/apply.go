package keycache

import (
	"time"

	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// hotFor is how long after its last use a credential counts as hot. A change that names it
// then has it resolved at once, before a check has to wait. Larger resolves more of them.
const hotFor = time.Minute

// take applies an answer, and only then relies on the lease that it gives.
func (f *follower) take(ask sidecarapi.ChangesRequest, sent time.Time, ch sidecarapi.Changes) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settle(ask.Epoch, ch.Epoch)
	switch {
	case ask.After == headOnly:
		return errLeaseForHead // not of this protocol: it may acknowledge a head that was never applied
	case ch.Epoch != ask.Epoch:
		f.at.after = headOnly
		return errEpoch
	case ch.Revision < ask.After:
		return errBack
	case ask.Epoch != f.at.epoch: // a resolve's; a 410 has invalidated already
		f.invalidateAll(ch.Epoch, ch.Revision)
	}
	hot := f.apply(ch)
	f.at.epoch, f.at.after = ch.Epoch, ch.Revision
	next := *f.state.Load()
	next.epoch, next.noLog = ch.Epoch, false
	// A part of the changes gives no lease, and no stale time after it either: among those
	// to come may be some that already count as effective.
	if ch.Lease > 0 {
		next.sent, next.lease, next.void, next.dropped = sent, ch.Lease, false, false
		next.stale = time.Duration(ask.MaxStaleMS) * time.Millisecond
	}
	f.state.Store(&next)
	if len(hot) > 0 && !f.closed {
		f.background.Go(func() {
			for _, d := range hot {
				f.request(d, true, synced)
			}
		})
	}
	return nil
}

// apply invalidates what the changes name, and marks the loads in flight. It returns the hot
// credentials among them. c.mu is held, so that no fill comes between.
func (c *Cache) apply(ch sidecarapi.Changes) (hot []credential.Digest) {
	now := time.Now()
	for _, change := range ch.List {
		if change.Account != "" {
			if a := c.accounts[change.Account]; a != nil {
				a.changed.Store(max(a.changed.Load(), change.Revision))
			}
		} else if e := c.invalidate(change); e != nil && e.found && elapsed(e.used, now) < hotFor && len(hot) < sidecarapi.MaxResolve {
			hot = append(hot, change.Digest)
		}
		for b := range c.flying {
			b.overtakenBy(change)
		}
	}
	c.seen = max(c.seen, ch.Revision)
	c.metrics.changes.Add(float64(len(ch.List)))
	return hot
}

func (c *Cache) invalidate(change sidecarapi.AppliedChange) *entry {
	s := c.pools.of(change.Digest)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.invalidate(change.Digest, change.Revision)
}

// overtakenBy notes a change that came while the batch was in flight.
func (b *batch) overtakenBy(change sidecarapi.AppliedChange) {
	if change.Account == "" {
		if l := b.byKey[change.Digest]; l != nil {
			l.changed = max(l.changed, change.Revision)
		}
		return
	}
	if b.accounts == nil {
		b.accounts = make(map[string]int64)
	}
	b.accounts[change.Account] = max(b.accounts[change.Account], change.Revision)
}

// lost handles a 410: the head that a start requests, another log, or one that no longer
// reaches back. The next poll acknowledges its head, so everything cached is invalidated
// first. Time-to-live mode ends: from that poll on the key API may wait for this sidecar.
func (f *follower) lost(ask sidecarapi.ChangesRequest, head *sidecarapi.Gone) {
	f.mu.Lock()
	f.settle(ask.Epoch, head.Epoch)
	if s := f.state.Load(); s.noLog {
		f.state.Store(&state{generation: s.generation})
	}
	f.invalidateAll(head.Epoch, head.Revision)
	f.at.epoch, f.at.after, f.resumeAt = head.Epoch, head.Revision, head
	f.mu.Unlock()
	f.markAnswered()
	f.pollsFail.Store(false)
	if ask.After != headOnly && !f.gone {
		f.log.warn("change log does not reach back: everything cached is invalidated", zap.Int64("head", head.Revision))
	}
}

// conflict handles a 409: another process polls under this name, or the key API has it on
// record as stopped. What this process has acknowledged is no longer known there. So it
// relies on nothing cached, takes a new name, and starts over.
func (f *follower) conflict() {
	after := f.newName()
	f.mu.Lock()
	f.dropLease()
	f.invalidateAll(f.state.Load().epoch, f.seen)
	before := f.at.name
	f.at.name, f.at.epoch, f.at.after = after, "", headOnly
	f.resumeAt, f.stray = nil, nil
	f.mu.Unlock()
	f.polled = false
	if f.failures == 0 {
		f.log.warn("sidecar name is used by another process: took a new name, and everything cached is invalidated",
			zap.String("before", before), zap.String("after", after))
	}
}

// settle forgets another log of a resolve once a poll has asked about it, or was answered with
// it. Not sooner: every further resolve of that log would start another poll. c.mu is held.
func (c *Cache) settle(asked, answered string) {
	if c.stray != nil && (c.stray.Epoch == asked || c.stray.Epoch == answered) {
		c.stray = nil
	}
}

// enterTTLMode enters time-to-live mode after a 404, unless the key API may have a lease of
// this sidecar on record, or a stale time after it: a change counts on their end.
func (f *follower) enterTTLMode(now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.state.Load()
	switch {
	case s.noLog:
		return true
	case s.onRecord(now), !f.unanswered.IsZero() && now.Sub(f.unanswered) < s.lease+f.unansweredStale:
		return false
	}
	f.log.info("the key API offers no change log: time-to-live mode")
	f.invalidateAll("", 0) // its revisions, if it has any, are not those of a log before
	f.state.Store(&state{generation: f.state.Load().generation, noLog: true})
	return true
}
