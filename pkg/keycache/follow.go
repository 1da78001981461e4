package keycache

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/keyapi"
)

const (
	// pollGrace is what a poll may take beyond its own wait: the way there and back.
	pollGrace = time.Second
	// firstRetry and slowestRetry bound the pause after a failed poll, before jitter. With
	// pollGrace two polls are never sent more than 2 s apart.
	firstRetry   = 100 * time.Millisecond
	slowestRetry = time.Second
	// earlyPause follows an empty answer that came before its time: a key API that does
	// not hold polls, or that stops, must not be asked in a circle.
	earlyPause = 50 * time.Millisecond
	// askForLog is how often a key API without a change log is asked for one.
	askForLog = time.Minute
	// leaveWait bounds the goodbye.
	leaveWait = time.Second
	// hotFor is how long after its last use a credential counts as hot: then a change
	// that names it has it asked for at once, before a check has to wait.
	hotFor = time.Minute
	// beginning is the cursor that asks for the head alone.
	beginning = -1
)

// follower is the state of the poll loop.
type follower struct {
	*Cache
	epoch    string
	after    int64
	told     *keyapi.Gone // by a 410, where to go on at once
	polled   bool         // so the key API may count on this sidecar, even if no answer came
	failures int
}

// Run follows the change log until ctx ends, and then tells the key API that this
// sidecar answers nothing more: stop answering before ctx ends.
func (c *Cache) Run(ctx context.Context) error {
	f := &follower{Cache: c, after: beginning}
	for ctx.Err() == nil {
		pause := f.poll(ctx)
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-c.kick:
		case <-timer.C:
		}
		timer.Stop()
	}
	f.leave(ctx)
	return nil
}

// poll sends one poll, takes in its answer, and returns the pause until the next.
func (f *follower) poll(ctx context.Context) time.Duration {
	ask := f.next(time.Now())
	sent := time.Now()
	f.polled = true
	changes, kicked, err := f.send(ctx, ask)
	if err != nil && kicked {
		return 0
	}
	var gone *keyapi.Gone
	switch {
	case err == nil:
		err = f.take(ask, sent, changes)
	case errors.As(err, &gone):
		f.lost(ask, gone)
	case errors.Is(err, keyapi.ErrNotOffered) && f.withoutLog(time.Now()):
		f.metrics.polled("not_offered")
		return askForLog/2 + rand.N(askForLog) //nolint:gosec // G404: jitter
	}
	f.metrics.polled(pollOutcome(err))
	if err != nil {
		return f.pause(err)
	}
	f.heard()
	f.failures = 0
	if wait := time.Duration(ask.WaitMS) * time.Millisecond; len(changes.List) == 0 && elapsed(sent, time.Now()) < wait/2 {
		return rand.N(2 * earlyPause) //nolint:gosec // G404: jitter
	}
	return 0
}

// send sends one poll, and gives it up when the follower is wanted elsewhere.
func (f *follower) send(ctx context.Context, ask keyapi.ChangesRequest) (changes keyapi.Changes, kicked bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(ask.WaitMS)*time.Millisecond+pollGrace)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-f.kick:
			kicked = true
			cancel()
		case <-ctx.Done():
		}
	}()
	changes, err = f.api.Changes(ctx, ask)
	cancel()
	<-watched
	return changes, kicked, err
}

// pause returns how long to wait after a failed poll: not at all after the first 410,
// else a random time below a bound that doubles.
func (f *follower) pause(err error) time.Duration {
	var gone *keyapi.Gone
	if errors.As(err, &gone) {
		f.heard()
	}
	f.failures++
	if gone != nil && f.failures == 1 {
		return 0
	}
	if f.failures == 1 {
		f.log.Warn("the change log cannot be followed", zap.Error(err))
	}
	bound := min(slowestRetry, firstRetry<<min(f.failures-1, 10))
	return rand.N(bound) //nolint:gosec // G404: jitter
}

func pollOutcome(err error) string {
	var gone *keyapi.Gone
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &gone):
		return "gone"
	}
	return "error"
}

// next makes the next poll. Where nothing cached may answer it begins anew.
func (f *follower) next(now time.Time) keyapi.ChangesRequest {
	told := f.told
	f.told = nil
	f.mu.Lock()
	if f.stray != nil {
		told = f.stray
	}
	f.mu.Unlock()

	s := f.state.Load()
	ask := keyapi.ChangesRequest{
		Sidecar:    f.sidecar,
		Epoch:      f.epoch,
		After:      f.after,
		MaxStaleMS: f.times.Load().MaxStale.Milliseconds(),
	}
	switch m := s.mode(now); {
	case told != nil:
		ask.Epoch, ask.After = told.Epoch, told.Revision
	case m == cold || m == ttl || f.after == beginning:
		f.relyOnNothing()
		ask.Epoch, ask.After = "", beginning
	case m == synced && f.failures == 0:
		ask.WaitMS = min(keyapi.MaxWait, s.lease/3).Milliseconds()
	default: // without a wait: a lease is to be had, or to be held, as soon as can be
	}
	return ask
}

// relyOnNothing ends what is left of the last lease before a poll that begins anew: such
// a poll acknowledges the head. By the clock it may be over already, but a clock can be
// set back.
func (f *follower) relyOnNothing() {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := *f.state.Load()
	next.sent = time.Time{}
	f.state.Store(&next)
}

// take applies an answer, and only then relies on the lease that it gives.
func (f *follower) take(ask keyapi.ChangesRequest, sent time.Time, ch keyapi.Changes) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settle(ask.Epoch, ch.Epoch)
	anew := ask.After == beginning || ask.Epoch != f.epoch
	switch {
	case ask.After != beginning && ch.Epoch != ask.Epoch:
		f.after = beginning
		return errEpoch
	case ask.After != beginning && ch.Revision < ask.After:
		return errBack
	case anew:
		f.beginAnew(ch.Epoch, ch.Revision)
	}
	hot := f.apply(ch)
	f.epoch, f.after = ch.Epoch, ch.Revision
	next := *f.state.Load()
	next.epoch, next.noLog = ch.Epoch, false
	// A part of the changes gives no lease, and no stale time after it either: among those
	// to come may be some that already count as effective.
	if ch.Lease > 0 {
		next.sent, next.lease, next.void = sent, ch.Lease, false
		next.stale = time.Duration(ask.MaxStaleMS) * time.Millisecond
	}
	f.state.Store(&next)
	if f.failures > 0 || anew {
		f.log.Info("following the change log", zap.Int64("revision", ch.Revision), zap.Duration("lease", ch.Lease), zap.Bool("anew", anew))
	}
	if len(hot) > 0 && !f.closed {
		f.background.Go(func() {
			for _, d := range hot {
				f.request(d, true, synced)
			}
		})
	}
	return nil
}

// apply outdates what the changes name, and marks what is under way. It returns the hot
// credentials among them. c.mu is held, so that no fill comes between.
func (c *Cache) apply(ch keyapi.Changes) (hot []credential.Digest) {
	now := time.Now()
	for _, change := range ch.List {
		if change.Account != "" {
			if a := c.accounts[change.Account]; a != nil {
				a.changed.Store(max(a.changed.Load(), change.Revision))
			}
		} else if e := c.outdate(change); e != nil && e.found && elapsed(e.used, now) < hotFor && len(hot) < keyapi.MaxResolve {
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

func (c *Cache) outdate(change keyapi.AppliedChange) *entry {
	s := c.pools.of(change.Digest)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.outdate(change.Digest, change.Revision)
}

// overtakenBy notes a change that came while the batch was under way.
func (b *batch) overtakenBy(change keyapi.AppliedChange) {
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

// lost deals with a 410: another log, or one that no longer reaches back.
func (f *follower) lost(ask keyapi.ChangesRequest, gone *keyapi.Gone) {
	f.log.Warn("the change log does not reach back: everything cached is suspect", zap.Int64("head", gone.Revision))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settle(ask.Epoch, gone.Epoch)
	f.beginAnew(gone.Epoch, gone.Revision)
	f.epoch, f.after, f.told = gone.Epoch, gone.Revision, gone
}

// settle forgets a stray log once the follower has asked about it or was told of it. Not
// sooner: every answer of that log that comes while the follower asks would else make it
// ask anew. c.mu is held.
func (c *Cache) settle(asked, told string) {
	if c.stray != nil && (c.stray.Epoch == asked || c.stray.Epoch == told) {
		c.stray = nil
	}
}

// withoutLog goes over to plain times to live, unless a lease was given whose stale
// time still runs: the key API counts on that one's end.
func (f *follower) withoutLog(now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch f.state.Load().mode(now) {
	case synced, degraded:
		return false
	case cold:
		f.log.Info("the key API offers no change log: credentials are confirmed by time alone")
		f.heard()
		f.beginAnew("", 0) // its revisions, if it has any, are not those of a log before
		f.state.Store(&state{generation: f.state.Load().generation, noLog: true})
	case ttl:
	}
	f.failures = 0
	return true
}

// heard notes that the key API has answered.
func (c *Cache) heard() { c.answeredOnce.Do(func() { close(c.answered) }) }

// leave says goodbye, so that no change waits for this sidecar any longer.
func (f *follower) leave(ctx context.Context) {
	if !f.polled || f.state.Load().noLog {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveWait)
	defer cancel()
	_, err := f.api.Changes(ctx, keyapi.ChangesRequest{Sidecar: f.sidecar, Epoch: f.epoch, After: f.after, Leave: true})
	if err != nil {
		f.log.Warn("the key API was not told of this stop: changes wait for this sidecar's lease to end", zap.Error(err))
	}
}
