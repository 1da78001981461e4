package keycache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

const (
	// pollSlack is the time beyond wait_ms. Smaller cancels polls on slow links; larger
	// detects lost connections later.
	pollSlack = time.Second
	// minRetry and maxRetry bound the pause after a failed poll, before jitter. Smaller loads a
	// key API that recovers. A larger maxRetry, together with pollSlack, sends polls more than
	// 2 s apart and can lose a short lease.
	minRetry = 100 * time.Millisecond
	maxRetry = time.Second
	// earlyAnswerPause follows an empty answer that came before wait_ms. Smaller loads a key API
	// that does not hold polls; larger applies its changes later.
	earlyAnswerPause = 50 * time.Millisecond
	// ttlPollInterval is the interval of polls in time-to-live mode, before jitter. Larger detects
	// a change log later.
	ttlPollInterval = time.Minute
	// deregisterTimeout bounds the deregistration. Smaller loses it on slow links; larger delays
	// the stop while the key API is down.
	deregisterTimeout = time.Second
	// maxFailedPolls in a row, the metric says that the key API is down. Smaller says so after a
	// single lost poll.
	maxFailedPolls = 2
	// longestLease is assumed for an acknowledgement without an answer if no lease is known. It
	// is the longest that sidecarapi accepts. Smaller enters time-to-live mode while the key API
	// still waits for this sidecar; larger enters it later.
	longestLease = 24 * time.Hour
	// headOnly as a cursor requests the head alone.
	headOnly = -1
)

var errLeaseForHead = errors.New("the answer to a poll of the head is 200, not 410")

// cursor is the follower's position. Cache.mu guards it.
type cursor struct {
	name  string // of this process for the key API
	poll  int64  // number of the last poll; it only rises
	epoch string
	after int64 // every change up to it is applied; headOnly: start over
}

// follower is the state of the poll loop.
type follower struct {
	cache    *Cache
	resume   bool      // the next poll acknowledges the head of a 410
	resuming bool      // the current poll acknowledges a head
	gone     bool      // the last poll was answered with 410
	polled   bool      // under the current name, so the key API may have it on record
	failures int       // in a row
	since    time.Time // first of them

	// The last acknowledgement without an answer: the key API may have it on record.
	unanswered      time.Time // when it was sent
	unansweredStale time.Duration
}

// Run follows the change log until ctx ends, and then deregisters this sidecar from the key API.
// Checks must end before ctx does. It returns an error if a goroutine of the cache has panicked: then
// nothing is known of the cache, and without Run its lease ends.
func (c *Cache) Run(ctx context.Context) error {
	f := &follower{cache: c}
	for ctx.Err() == nil {
		select {
		case err := <-c.panicked:
			return err
		default:
		}
		select {
		case <-time.After(f.poll(ctx)):
		case <-c.wake:
		case <-ctx.Done():
		}
	}
	f.deregister(ctx)
	return nil
}

// wakeFollower has the follower cancel its poll, or end its pause, and poll immediately.
func (c *Cache) wakeFollower() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// poll sends one poll, handles its answer, and returns the pause until the next.
func (f *follower) poll(ctx context.Context) time.Duration {
	c, sent := f.cache, time.Now()
	req := f.nextPoll(sent)
	f.polled = true
	changes, woken, err := f.send(ctx, req)
	if err != nil && !isAnswer(err) {
		if req.After != headOnly {
			f.unanswered, f.unansweredStale = sent, time.Duration(req.MaxStaleMS)*time.Millisecond
		}
		if woken || ctx.Err() != nil {
			return 0
		}
	}
	head, _ := errors.AsType[*sidecarapi.Gone](err)
	repeated := f.gone
	switch {
	case err == nil:
		err = f.handleChanges(req, sent, changes)
	case head != nil:
		f.handleGone(req, head)
	case errors.Is(err, sidecarapi.ErrConflict):
		f.handleConflict()
	case errors.Is(err, sidecarapi.ErrNotOffered) && c.changesOptional && f.enterTTLMode(time.Now()):
		c.metrics.polled(err)
		f.succeeded()
		return jitter(ttlPollInterval)
	}
	f.gone = head != nil
	c.metrics.polled(err)
	switch {
	case head != nil && !repeated:
		return 0
	case err != nil:
		return f.failed(err)
	}
	f.succeeded()
	if f.resuming {
		c.log.Info("following the change log", zap.Int64("revision", changes.Revision), zap.Duration("lease", changes.Lease))
	}
	if wait := time.Duration(req.WaitMS) * time.Millisecond; len(changes.List) == 0 && elapsed(momentOf(sent), momentOf(time.Now())) < wait/2 {
		return rand.N(2 * earlyAnswerPause)
	}
	return 0
}

// nextPoll makes the next poll. If no cached entry may answer, it starts over.
func (f *follower) nextPoll(now time.Time) sidecarapi.ChangesRequest {
	c := f.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	f.resume, f.resuming = false, f.resume || c.pendingEpoch != nil
	t, s, req := c.times.Load(), c.state.Load(), c.newPoll()
	req.MaxStaleMS = t.MaxStale.Milliseconds()
	switch m := s.mode(t, momentOf(now)); {
	case c.pendingEpoch != nil:
		req.Epoch, req.After = c.pendingEpoch.Epoch, c.pendingEpoch.Revision
	case f.resuming:
	case m == cold || m == ttl || c.cursor.after == headOnly:
		c.dropLease()
		req.Epoch, req.After = "", headOnly
	case m == synced && f.failures == 0:
		// A poll on a lost HTTP/1.1 connection is cancelled after its wait and pollSlack: with the
		// default lease within 6 s.
		req.WaitMS = min(sidecarapi.MaxWait, s.lease*3/10).Milliseconds()
	default: // without a wait, because the answer gives or keeps a lease
	}
	return req
}

// newPoll returns a poll from the cursor, with the next number. c.mu is held.
func (c *Cache) newPoll() sidecarapi.ChangesRequest {
	c.cursor.poll++
	return sidecarapi.ChangesRequest{Sidecar: c.cursor.name, Poll: c.cursor.poll, Epoch: c.cursor.epoch, After: c.cursor.after}
}

// send sends one poll, and cancels it if the follower is woken.
func (f *follower) send(ctx context.Context, req sidecarapi.ChangesRequest) (changes sidecarapi.Changes, woken bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(req.WaitMS)*time.Millisecond+pollSlack)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-f.cache.wake:
			woken = true
			cancel()
		case <-ctx.Done():
		}
	}()
	changes, err = f.cache.api.Changes(ctx, req)
	cancel()
	<-watched
	return changes, woken, err
}

// isAnswer reports whether the error is an answer that says that the poll is not on record.
func isAnswer(err error) bool {
	_, gone := errors.AsType[*sidecarapi.Gone](err)
	return gone || errors.Is(err, sidecarapi.ErrConflict) || errors.Is(err, sidecarapi.ErrNotOffered)
}

// failed records a failed poll and returns the pause after it: exponential backoff with full
// jitter. Only the first failure in a row is logged.
func (f *follower) failed(err error) time.Duration {
	c := f.cache
	if f.failures++; f.failures == 1 {
		f.since = time.Now()
		if errors.Is(err, sidecarapi.ErrNotOffered) && !c.changesOptional {
			err = fmt.Errorf("%w; time-to-live mode needs key_api.changes: optional", err)
		}
		c.log.Warn("change log cannot be followed", zap.Error(err))
	}
	refused := isAnswer(err) && !errors.Is(err, sidecarapi.ErrNotOffered)
	c.pollsFailing.Store(!refused && f.failures >= maxFailedPolls)
	return rand.N(min(maxRetry, minRetry<<min(f.failures-1, 10)))
}

// succeeded ends a row of failures.
func (f *follower) succeeded() {
	f.cache.markAnswered()
	f.cache.pollsFailing.Store(false)
	if f.failures > 0 {
		f.cache.log.Info("change log can be followed again", zap.Duration("after", time.Since(f.since)), zap.Int("failed_polls", f.failures))
	}
	f.failures = 0
}

// handleChanges applies an answer, and then relies on the lease that it gives.
func (f *follower) handleChanges(req sidecarapi.ChangesRequest, sent time.Time, ch sidecarapi.Changes) error {
	c, received := f.cache, time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clearPendingEpoch(req.Epoch, ch.Epoch)
	switch {
	case req.After == headOnly:
		return errLeaseForHead // not of this protocol: it may acknowledge a head that was never applied
	case ch.Epoch != req.Epoch:
		c.cursor.after = headOnly
		return errEpochMismatch
	case ch.Revision < req.After:
		return errRevisionDecreased
	case req.Epoch != c.cursor.epoch: // the epoch of a resolve; after a 410 everything is invalidated already
		c.invalidateAll(ch.Epoch, ch.Revision)
	}
	hot := c.apply(ch)
	if len(ch.List) > 0 {
		c.metrics.application.Observe(time.Since(received).Seconds())
	}
	c.cursor.epoch, c.cursor.after = ch.Epoch, ch.Revision
	next := *c.state.Load()
	next.epoch, next.ttlMode = ch.Epoch, false
	// A part of the changes gives no lease and no stale time: later ones may already count as
	// effective.
	if ch.Lease > 0 {
		next.sent, next.lease, next.ended, next.dropped = momentOf(sent), ch.Lease, false, false
		next.maxStale = time.Duration(req.MaxStaleMS) * time.Millisecond
		c.acknowledged.Store(int64(received.Sub(origin)))
	}
	c.state.Store(&next)
	if len(hot) > 0 && !c.closed {
		c.spawn(func() {
			for _, d := range hot {
				c.request(c.ctx, d, true)
			}
		})
	}
	return nil
}

// apply invalidates what the changes name, and marks the loads in flight. It returns the hot
// credentials. c.mu is held.
func (c *Cache) apply(ch sidecarapi.Changes) (hot []credential.Digest) {
	now := momentOf(time.Now())
	for _, change := range ch.List {
		if change.Account != "" {
			if a := c.accounts[change.Account]; a != nil {
				a.changed.Store(max(a.changed.Load(), change.Revision))
			}
		} else if c.pools.of(change.Digest).invalidate(change.Digest, change.Revision, now) && len(hot) < sidecarapi.MaxResolve {
			hot = append(hot, change.Digest)
		}
		for b := range c.inFlight {
			b.noteChange(change)
		}
	}
	c.revision = max(c.revision, ch.Revision)
	c.metrics.changes.Add(float64(len(ch.List)))
	return hot
}

// handleGone handles a 410: the head that a start requests, another log, or a log that no longer
// reaches back. The next poll acknowledges the head, so everything is invalidated first.
// Time-to-live mode ends: from that poll on the key API may wait for this sidecar.
func (f *follower) handleGone(req sidecarapi.ChangesRequest, head *sidecarapi.Gone) {
	c := f.cache
	c.mu.Lock()
	c.clearPendingEpoch(req.Epoch, head.Epoch)
	if s := c.state.Load(); s.ttlMode {
		c.state.Store(&state{generation: s.generation})
	}
	c.invalidateAll(head.Epoch, head.Revision)
	c.cursor.epoch, c.cursor.after, f.resume = head.Epoch, head.Revision, true
	c.mu.Unlock()
	c.markAnswered()
	c.pollsFailing.Store(false)
	if req.After != headOnly && !f.gone {
		c.log.Warn("change log does not reach back to this sidecar: all entries invalidated", zap.Int64("head", head.Revision))
	}
}

// handleConflict handles a 409: another process polls under this name, or the key API has it on
// record as deregistered. The key API no longer knows what this process has acknowledged. So it
// drops its lease, takes a new name and starts over.
func (f *follower) handleConflict() {
	c, after := f.cache, f.cache.newName()
	c.mu.Lock()
	c.dropLease()
	c.invalidateAll(c.state.Load().epoch, c.revision)
	before := c.cursor.name
	c.cursor.name, c.cursor.epoch, c.cursor.after = after, "", headOnly
	c.pendingEpoch = nil
	c.mu.Unlock()
	f.polled = false
	if f.failures == 0 {
		c.log.Warn("sidecar name is in use by another process: new name taken, all entries invalidated",
			zap.String("before", before), zap.String("after", after))
	}
}

// clearPendingEpoch clears the pending epoch once a poll has requested it or was answered with
// it. Earlier, every further resolve of that epoch would start another poll. c.mu is held.
func (c *Cache) clearPendingEpoch(requested, answered string) {
	if c.pendingEpoch != nil && (c.pendingEpoch.Epoch == requested || c.pendingEpoch.Epoch == answered) {
		c.pendingEpoch = nil
	}
}

// enterTTLMode enters time-to-live mode after a 404 and reports whether the cache is in it. It does
// not while the key API may have a lease of this sidecar or its stale time on record, because a
// change becomes effective when they end.
func (f *follower) enterTTLMode(now time.Time) bool {
	c := f.cache
	c.mu.Lock()
	s := c.state.Load()
	onRecord := s.onRecord(momentOf(now)) ||
		!f.unanswered.IsZero() && now.Sub(f.unanswered) < cmp.Or(s.lease, longestLease)+f.unansweredStale
	if s.ttlMode || onRecord {
		c.mu.Unlock()
		return s.ttlMode
	}
	c.invalidateAll("", 0) // revisions of a key API without a log are not those of the log before
	c.state.Store(&state{generation: c.state.Load().generation, ttlMode: true})
	c.mu.Unlock()
	c.log.Info("key API offers no change log: time-to-live mode")
	return true
}

// deregister has the key API wait for this sidecar no longer.
func (f *follower) deregister(ctx context.Context) {
	c := f.cache
	if !f.polled || c.state.Load().ttlMode {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deregisterTimeout)
	defer cancel()
	c.mu.Lock()
	req := c.newPoll()
	c.mu.Unlock()
	req.Leave = true
	if _, err := c.api.Changes(ctx, req); err != nil {
		c.log.Warn("deregistration failed: changes wait until this sidecar's lease and stale time end", zap.Error(err))
	}
}
