package keycache

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

const (
	// batchWindow is how long a batch collects misses. Smaller sends more requests; larger delays
	// every miss.
	batchWindow = time.Millisecond
	// maxAttempts bounds the resolves of one load. Smaller fails checks while facts change
	// quickly; larger has them wait until their deadline.
	maxAttempts = 8
	// epochRetryPause is the pause before a load is sent again after a resolve of another epoch.
	// Smaller uses up the attempts before the follower has polled; larger delays the check.
	epochRetryPause = 20 * time.Millisecond
	// maxFailures in a row open the breaker. Smaller opens it for single lost packets; larger has
	// more checks wait for a timeout at the beginning of an outage.
	maxFailures = 3
	// probeInterval is the pause between two probes while the breaker is open, before jitter.
	// Smaller loads a key API that recovers; larger detects its recovery later.
	probeInterval = 200 * time.Millisecond
)

var (
	errUnusableResult    = errors.New("the key API's result for this credential is unusable")
	errEpochMismatch     = errors.New("the key API's answer is of another epoch")
	errRevisionDecreased = errors.New("the key API's answer is of an older revision than an earlier one")
	errTooManyAttempts   = errors.New("the facts changed during each resolve")
	errDown              = errors.New("the key API is down: no resolve was sent")
	errClosed            = errors.New("the cache is closed")
)

// load is the resolving of one digest, shared by all who wait for it. Cache.mu guards it until
// done is closed; then result and err are immutable.
type load struct {
	digest   credential.Digest
	token    bool         // holds a token of the limiter
	attempts int          // batches that have carried it
	batch    *batch       // carries it now; nil while it waits for a token
	changed  int64        // newest change that named the digest while that batch was in flight
	traced   []trace.Span // of checks that wait; see noteTrace

	done   chan struct{}
	result sidecarapi.Result
	err    error
}

// batch is one resolve: it collects loads, then it is sent.
type batch struct {
	loads  []*load
	byKey  map[credential.Digest]*load
	traced []trace.Span // of the loads when it was sent

	sentAt      time.Time        // zero while it collects loads
	generation  uint32           // of the cache when it was sent
	minRevision int64            // newest seen when it was sent
	accounts    map[string]int64 // newest change of each account while it was in flight
}

// request returns the load that a check which begins now may wait for. Revalidating a cached
// digest takes no token. The resolve continues the trace of ctx.
func (c *Cache) request(ctx context.Context, d credential.Digest, cached bool) *load {
	span := trace.SpanFromContext(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.loads[d]
	if l != nil && c.joinable(l) {
		c.metrics.shared.Inc()
		l.noteTrace(span)
		if cached && l.batch == nil {
			c.limiter.remove(l)
			c.enqueue(l)
		}
		return l
	}
	l = &load{digest: d, done: make(chan struct{})}
	c.loads[d] = l
	l.noteTrace(span)
	switch {
	case cached:
		c.enqueue(l)
	case c.limiter.acquire(l, time.Now()):
		c.runLimiter()
	default:
		c.refuse(l)
	}
	return l
}

// joinable reports whether a check that begins now may wait for the load. It may not if the load
// was sent in an earlier generation, or if no cached entry may answer and it was sent before.
func (c *Cache) joinable(l *load) bool {
	if l.batch == nil || l.batch.sentAt.IsZero() {
		return true
	}
	return c.mode() != cold && l.batch.generation == c.state.Load().generation
}

// runLimiter admits and refuses waiting loads, now and when the limiter says. c.mu is held.
func (c *Cache) runLimiter() {
	now := time.Now()
	admit, refuse, next := c.limiter.advance(now)
	if !next.IsZero() && (c.limiterAt.IsZero() || next.Before(c.limiterAt)) {
		c.limiterAt = next
		c.after(next.Sub(now), func() {
			if c.limiterAt.Equal(next) { // else an earlier timer has replaced this one
				c.limiterAt = time.Time{}
				c.runLimiter()
			}
		})
	}
	for _, l := range admit {
		l.token = true
		c.enqueue(l)
	}
	for _, l := range refuse {
		c.refuse(l)
	}
}

// refuse ends a load for which there is no token. c.mu is held.
func (c *Cache) refuse(l *load) {
	c.metrics.refused.Inc()
	c.finish(l, sidecarapi.Result{}, credential.ErrRateLimited)
}

// enqueue adds a load to the open batch. c.mu is held.
func (c *Cache) enqueue(l *load) {
	if c.open != nil && c.open.byKey[l.digest] != nil {
		c.send(c.open) // with a load of the digest that this load's callers could not join
	}
	b := c.open
	if b == nil {
		b = &batch{byKey: make(map[credential.Digest]*load), accounts: make(map[string]int64)}
		c.open = b
		c.after(batchWindow, func() { c.send(b) })
	}
	l.attempts++
	l.batch, l.changed = b, 0
	b.loads = append(b.loads, l)
	b.byKey[l.digest] = l
	if len(b.loads) == sidecarapi.MaxResolve {
		c.send(b)
	}
}

// send closes a batch and resolves it. c.mu is held.
func (c *Cache) send(b *batch) {
	if !b.sentAt.IsZero() {
		return
	}
	if c.open == b {
		c.open = nil
	}
	b.sentAt, b.generation, b.minRevision = time.Now(), c.state.Load().generation, c.revision
	var err error
	switch {
	case c.closed:
		err = errClosed
	case c.down():
		err = errDown
	default:
		c.inFlight[b] = struct{}{}
		b.collectTraces()
		c.spawn(func() { c.resolve(b) })
		return
	}
	for _, l := range b.loads {
		c.finish(l, sidecarapi.Result{}, err)
	}
}

// resolve sends a batch, within the client's timeout, and hands the results to its loads.
func (c *Cache) resolve(b *batch) {
	digests := make([]credential.Digest, len(b.loads))
	for i, l := range b.loads {
		digests[i] = l.digest
	}
	ctx, span := b.startSpan(c.ctx)
	resolved, err := c.api.Resolve(ctx, digests)
	endSpan(span, err)
	c.metrics.resolved(len(digests), time.Since(b.sentAt), err)
	c.recordResolve(err, digests[0])
	c.fill(b, resolved, err)
	for i, r := range resolved.Results {
		if r.Outcome == sidecarapi.Unusable {
			c.metrics.unusable.Inc()
			c.logUnusable.Do(func() { // once, because one such credential would fill the log
				c.log.Warn("key API result is unusable: checks of such credentials get 503", zap.Stringer("sha256", digests[i]))
			})
		}
	}
}

// fill finishes each load of a batch, or requeues it. It and apply exclude each other, so a fill
// either sees a change or comes before it.
func (c *Cache) fill(b *batch, resolved sidecarapi.Resolved, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.inFlight, b)
	if err == nil && b.generation == c.state.Load().generation {
		err = c.accept(b, resolved)
	}
	current := b.generation == c.state.Load().generation
	for i, l := range b.loads {
		switch {
		case errors.Is(err, errEpochMismatch):
			c.requeue(l, epochRetryPause)
		case err != nil:
			c.finish(l, sidecarapi.Result{}, err)
		case !current || b.superseded(l, resolved.Results[i], resolved.Revision):
			c.requeue(l, 0)
		case resolved.Results[i].Outcome == sidecarapi.Unusable:
			c.finish(l, sidecarapi.Result{}, errUnusableResult)
		default:
			c.store(l.digest, b, resolved.Revision, resolved.Results[i])
			c.finish(l, resolved.Results[i], nil)
		}
	}
}

// accept compares a resolve's epoch and revision with those of the log. In time-to-live mode
// nothing says which of two epochs counts: the newer answer does, and everything cached
// before it is invalidated. c.mu is held.
func (c *Cache) accept(b *batch, r sidecarapi.Resolved) error {
	s := c.state.Load()
	switch {
	case s.ttlMode && s.epoch == "":
		next := *s
		next.epoch = r.Epoch
		c.state.Store(&next)
	case s.ttlMode && (s.epoch != r.Epoch || r.Revision < b.minRevision):
		c.invalidateAll(r.Epoch, r.Revision)
	case s.epoch == "":
		return nil // no log is followed yet, so no cached entry answers
	case s.epoch != r.Epoch:
		c.epochMismatch(r.Epoch, r.Revision)
		return errEpochMismatch
	case r.Revision < b.minRevision:
		return errRevisionDecreased
	}
	c.revision = max(c.revision, r.Revision)
	return nil
}

// noteChange records a change that was applied while the batch was in flight.
func (b *batch) noteChange(change sidecarapi.AppliedChange) {
	if change.Account == "" {
		if l := b.byKey[change.Digest]; l != nil {
			l.changed = max(l.changed, change.Revision)
		}
		return
	}
	b.accounts[change.Account] = max(b.accounts[change.Account], change.Revision)
}

// superseded reports whether a change that was applied while the batch was in flight is newer
// than its result for the load.
func (b *batch) superseded(l *load, r sidecarapi.Result, revision int64) bool {
	return l.changed > revision || r.Outcome == sidecarapi.Found && b.accounts[r.Record.Account.ID] > revision
}

// requeue adds a load to another batch, after a pause. c.mu is held.
func (c *Cache) requeue(l *load, pause time.Duration) {
	switch {
	case l.attempts >= maxAttempts:
		c.finish(l, sidecarapi.Result{}, errTooManyAttempts)
	case pause == 0:
		c.enqueue(l)
	default:
		c.after(pause, func() { c.enqueue(l) })
	}
}

// finish ends a load for all that wait. Its token is refunded if it found a credential in force
// or had no usable result. c.mu is held.
func (c *Cache) finish(l *load, r sidecarapi.Result, err error) {
	if c.loads[l.digest] == l {
		delete(c.loads, l.digest)
	}
	l.result, l.err = r, err
	close(l.done)
	if !l.token {
		return
	}
	now := time.Now()
	if err != nil || r.Outcome == sidecarapi.Found && inForce(&r.Record, now) {
		c.limiter.refund()
	} else {
		c.limiter.consume(now)
	}
	c.runLimiter()
}

// wait waits for a load until ctx ends.
func wait(ctx context.Context, l *load) (sidecarapi.Result, error) {
	select {
	case <-l.done:
		return l.result, l.err
	case <-ctx.Done():
		return sidecarapi.Result{}, ctx.Err()
	}
}

// down reports whether the circuit breaker is open. Then checks get an immediate answer in place of
// a timeout. A probe closes it, so that no check pays for detecting a recovery.
func (c *Cache) down() bool { return c.failures.Load() >= maxFailures }

// recordResolve records the outcome of a resolve of the sample, and logs the begin and the end of
// an outage.
func (c *Cache) recordResolve(err error, sample credential.Digest) {
	if err == nil {
		c.markAnswered()
		if c.failures.Swap(0) >= maxFailures {
			c.log.Info("key API answers again")
		}
		return
	}
	if c.ctx.Err() != nil {
		return // the cache is closed
	}
	switch c.failures.Add(1) {
	case 1:
		c.log.Warn("resolve failed", zap.Error(err))
	case maxFailures:
		c.mu.Lock()
		if !c.closed {
			c.spawn(func() { c.probe(sample) })
		}
		c.mu.Unlock()
		c.wakeFollower() // its poll may wait on a lost connection
		c.log.Error("key API is down: uncached credentials get 503 until it answers", zap.Error(err))
	}
}

// probe resolves the sample until the key API answers.
func (c *Cache) probe(sample credential.Digest) {
	for c.down() {
		if !c.sleep(jitter(probeInterval)) {
			return
		}
		_, err := c.api.Resolve(c.ctx, []credential.Digest{sample})
		c.recordResolve(err, sample)
	}
}
