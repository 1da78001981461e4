package keycache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

const (
	// pollGrace is the time of a poll beyond its own wait. Smaller cancels polls on slow links;
	// larger detects lost connections later.
	pollGrace = time.Second
	// firstRetry and slowestRetry bound the pause after a failed poll, before jitter. With
	// pollGrace two polls are never sent more than 2 s apart.
	firstRetry   = 100 * time.Millisecond
	slowestRetry = time.Second
	// earlyPause follows an empty answer that came before its time. Smaller loads a key API
	// that does not hold polls, or that stops.
	earlyPause = 50 * time.Millisecond
	// askForLog is how often a key API without a change log is polled for one.
	askForLog = time.Minute
	// deregisterWait bounds the deregistration. Smaller loses it on slow links; larger delays
	// the stop while the key API is down.
	deregisterWait = time.Second
	// pollsFailAfter polls in a row, they count as failing in the metric. 1 would count a single
	// lost poll.
	pollsFailAfter = 2
	// headOnly is the cursor that requests the head alone.
	headOnly = -1
)

// cursor is where the follower stands. It is guarded by Cache.mu.
type cursor struct {
	name  string // of this process for the key API
	poll  int64  // number of the last request to the change log; it only rises
	epoch string
	after int64 // every change up to it is applied; headOnly: start over
}

// follower is the state of the poll loop.
type follower struct {
	*Cache
	resumeAt *sidecarapi.Gone // the head of a 410: the next poll acknowledges it
	resumed  bool             // the poll in flight does
	gone     bool             // the last poll was answered with 410
	polled   bool             // under the current name, so that the key API may have it on record
	failures int              // in a row
	since    time.Time        // of the first of them

	// The last poll that acknowledged and had no answer: it may be on record.
	unanswered      time.Time // when it was sent
	unansweredStale time.Duration
}

// Run follows the change log until ctx ends, and then deregisters this sidecar from the key
// API: stop answering before ctx ends.
func (c *Cache) Run(ctx context.Context) error {
	f := &follower{Cache: c}
	for ctx.Err() == nil {
		pause := f.poll(ctx)
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-c.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
	f.deregister(ctx)
	return nil
}

// poll sends one poll, handles its answer, and returns the pause until the next.
func (f *follower) poll(ctx context.Context) time.Duration {
	ask := f.next(time.Now())
	sent := time.Now()
	f.polled = true
	changes, woken, err := f.send(ctx, ask)
	if ask.After != headOnly && err != nil && !isAnswer(err) {
		f.unanswered, f.unansweredStale = sent, time.Duration(ask.MaxStaleMS)*time.Millisecond
	}
	if !isAnswer(err) && err != nil && (woken || ctx.Err() != nil) {
		return 0
	}
	var head *sidecarapi.Gone
	switch {
	case err == nil:
		err = f.take(ask, sent, changes)
	case errors.As(err, &head):
		f.lost(ask, head)
	case errors.Is(err, sidecarapi.ErrConflict):
		f.conflict()
	case errors.Is(err, sidecarapi.ErrNotOffered) && f.optional && f.enterTTLMode(time.Now()):
		f.metrics.polled("not_offered")
		f.succeeded()
		return askForLog/2 + rand.N(askForLog)
	}
	f.metrics.polled(pollOutcome(err))
	first := head != nil && !f.gone
	f.gone = head != nil
	switch {
	case first:
		return 0
	case err != nil:
		return f.failed(err)
	}
	f.succeeded()
	if f.resumed {
		f.log.info("following the change log", zap.Int64("revision", changes.Revision), zap.Duration("lease", changes.Lease))
	}
	if wait := time.Duration(ask.WaitMS) * time.Millisecond; len(changes.List) == 0 && elapsed(sent, time.Now()) < wait/2 {
		return rand.N(2 * earlyPause)
	}
	return 0
}

// send sends one poll, and gives it up when the follower is woken.
func (f *follower) send(ctx context.Context, ask sidecarapi.ChangesRequest) (changes sidecarapi.Changes, woken bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(ask.WaitMS)*time.Millisecond+pollGrace)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-f.wake:
			woken = true
			cancel()
		case <-ctx.Done():
		}
	}()
	changes, err = f.api.Changes(ctx, ask)
	cancel()
	<-watched
	return changes, woken, err
}

// failed notes a failed poll and returns the pause after it: a random time below a bound that
// doubles. Only the first failure of a row is logged.
func (f *follower) failed(err error) time.Duration {
	if f.failures++; f.failures == 1 {
		f.since = time.Now()
		if errors.Is(err, sidecarapi.ErrNotOffered) && !f.optional {
			err = fmt.Errorf("%w; time-to-live mode needs key_api.changes: optional", err)
		}
		f.log.warn("change log cannot be followed", zap.Error(err))
	}
	refused := isAnswer(err) && !errors.Is(err, sidecarapi.ErrNotOffered)
	f.pollsFail.Store(!refused && f.failures >= pollsFailAfter)
	bound := min(slowestRetry, firstRetry<<min(f.failures-1, 10))
	return rand.N(bound)
}

// succeeded ends a row of failures.
func (f *follower) succeeded() {
	f.markAnswered()
	f.pollsFail.Store(false)
	if f.failures > 0 {
		f.log.info("change log can be followed again", zap.Duration("after", time.Since(f.since)), zap.Int("failed_polls", f.failures))
	}
	f.failures = 0
}

// markAnswered notes that the key API has answered.
func (c *Cache) markAnswered() { c.answeredOnce.Do(func() { close(c.answered) }) }

// isAnswer reports whether the error is an answer that says that the poll is not on record.
func isAnswer(err error) bool {
	var gone *sidecarapi.Gone
	return errors.As(err, &gone) || errors.Is(err, sidecarapi.ErrConflict) || errors.Is(err, sidecarapi.ErrNotOffered)
}

func pollOutcome(err error) string {
	var gone *sidecarapi.Gone
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &gone):
		return "gone"
	case errors.Is(err, sidecarapi.ErrConflict):
		return "conflict"
	}
	return "error"
}

// next makes the next poll. Where nothing cached may answer it starts over.
func (f *follower) next(now time.Time) sidecarapi.ChangesRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	resumeAt := f.resumeAt
	if f.stray != nil {
		resumeAt = f.stray
	}
	f.resumeAt, f.resumed = nil, resumeAt != nil
	f.at.poll++
	s := f.state.Load()
	ask := sidecarapi.ChangesRequest{
		Sidecar:    f.at.name,
		Poll:       f.at.poll,
		Epoch:      f.at.epoch,
		After:      f.at.after,
		MaxStaleMS: f.times.Load().MaxStale.Milliseconds(),
	}
	switch m := s.mode(now); {
	case f.resumed:
		ask.Epoch, ask.After = resumeAt.Epoch, resumeAt.Revision
	case m == cold || m == ttl || f.at.after == headOnly:
		f.dropLease()
		ask.Epoch, ask.After = "", headOnly
	case m == synced && f.failures == 0:
		ask.WaitMS = pollWait(s.lease).Milliseconds()
	default: // without a wait: a lease is to be had, or to be kept, as soon as possible
	}
	return ask
}

// pollWait is how long the key API is to hold a poll under such a lease. A poll on a lost
// HTTP/1.1 connection is given up after it and pollGrace: with the default lease within 6 s.
func pollWait(lease time.Duration) time.Duration { return min(sidecarapi.MaxWait, lease*3/10) }

// deregister has no change wait for this sidecar any longer.
func (f *follower) deregister(ctx context.Context) {
	if !f.polled || f.state.Load().noLog {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deregisterWait)
	defer cancel()
	f.mu.Lock()
	f.at.poll++
	ask := sidecarapi.ChangesRequest{Sidecar: f.at.name, Poll: f.at.poll, Epoch: f.at.epoch, After: f.at.after, Leave: true}
	f.mu.Unlock()
	if _, err := f.api.Changes(ctx, ask); err != nil {
		f.log.warn("deregistration failed: changes wait for this sidecar's lease and stale time to end", zap.Error(err))
	}
}
