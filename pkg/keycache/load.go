package keycache

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

const (
	// gather is how long a batch is kept open for more misses.
	gather = time.Millisecond
	// maxAsks bounds how often one load is asked, when facts change under way.
	maxAsks = 8
	// settle is the pause before a digest is asked again whose answer came from another
	// log: the follower is finding out which one counts.
	settle = 20 * time.Millisecond
)

var (
	errUnusableResult = errors.New("the key API's result for this credential is unusable")
	errEpoch          = errors.New("the key API's answer is of another change log")
	errLeaseForHead   = errors.New("the answer to a poll of the head is 200, not 410")
	errBack           = errors.New("the key API's answer is of an older revision than one already seen")
	errUnquiet        = errors.New("the facts changed faster than they could be asked for")
	errClosed         = errors.New("the cache is closed")
)

// load is the asking about one digest, shared by all who wait for it. It belongs to
// Cache.mu until done is closed; then result and err are immutable.
type load struct {
	digest  credential.Digest
	token   *limiter // whose token it holds, nil for none
	asks    int      // how often it was put into a batch
	batch   *batch   // that carries it now; nil while it waits to be admitted
	changed int64    // newest change that named the digest while that batch was under way

	done   chan struct{}
	result sidecarapi.Result
	err    error
}

// batch is one resolve: first open for loads, then sent.
type batch struct {
	loads []*load
	byKey map[credential.Digest]*load

	sent       bool
	at         time.Time        // of the sending
	generation uint64           // of the cache then
	least      int64            // newest revision seen then: the answer's must not be below
	accounts   map[string]int64 // newest change of each account that came while it was under way
}

// request returns the load that a check may wait for. Revalidating a cached digest takes no
// token, in either pool.
func (c *Cache) request(d credential.Digest, cached bool, m mode) *load {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.loads[d]; l != nil && c.joinable(l, m) {
		c.metrics.shared.Inc()
		return l
	}
	l := &load{digest: d, done: make(chan struct{})}
	c.loads[d] = l
	if cached {
		c.enqueue(l)
	} else {
		c.limit.take(l)
	}
	return l
}

// joinable tells whether a check that begins now may wait for a load that is there
// already: not if that was asked in an earlier generation, and where nothing cached
// answers not if it was asked before the check began.
func (c *Cache) joinable(l *load, m mode) bool {
	if l.batch == nil || !l.batch.sent {
		return true
	}
	return m != cold && l.batch.generation == c.state.Load().generation
}

// enqueue puts a load into the open batch. c.mu is held.
func (c *Cache) enqueue(l *load) {
	b := c.open
	if b != nil && b.byKey[l.digest] != nil {
		// Another load of the digest waits there, which this one's callers could not join.
		c.send(b)
		b = nil
	}
	if b == nil {
		b = &batch{byKey: make(map[credential.Digest]*load)}
		c.open = b
		time.AfterFunc(gather, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.send(b)
		})
	}
	l.asks++
	l.batch, l.changed = b, 0
	b.loads = append(b.loads, l)
	b.byKey[l.digest] = l
	if len(b.loads) == sidecarapi.MaxResolve {
		c.send(b)
	}
}

// send closes a batch and asks it. c.mu is held.
func (c *Cache) send(b *batch) {
	if b.sent {
		return
	}
	if c.open == b {
		c.open = nil
	}
	b.sent, b.at = true, time.Now()
	b.generation, b.least = c.state.Load().generation, c.seen
	if err := c.mayAsk(); err != nil {
		for _, l := range b.loads {
			c.finish(l, sidecarapi.Result{}, err)
		}
		return
	}
	c.flying[b] = struct{}{}
	c.background.Go(func() { c.ask(b) })
}

func (c *Cache) mayAsk() error {
	switch {
	case c.closed:
		return errClosed
	case !c.breaker.allows():
		return errDown
	}
	return nil
}

// ask resolves a batch on a time limit of its own, which is the client's.
func (c *Cache) ask(b *batch) {
	digests := make([]credential.Digest, len(b.loads))
	for i, l := range b.loads {
		digests[i] = l.digest
	}
	resolved, err := c.api.Resolve(c.life, digests)
	c.metrics.resolved(len(digests), time.Since(b.at), err)
	c.note(err, digests[0])
	c.complete(b, resolved, err)
}

// complete ends a batch: each of its loads is done, or is asked again. It and apply
// exclude each other, so that a fill either sees a change or comes before it.
func (c *Cache) complete(b *batch, resolved sidecarapi.Resolved, err error) {
	if unusable := c.fill(b, resolved, err); len(unusable) > 0 {
		c.recordUnusable(unusable)
	}
}

// fill does what complete says, and returns the digests whose results are unusable.
func (c *Cache) fill(b *batch, resolved sidecarapi.Resolved, err error) (unusable []credential.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.flying, b)
	if err == nil && b.generation == c.state.Load().generation {
		err = c.accept(b, resolved)
	}
	current := b.generation == c.state.Load().generation
	for i, l := range b.loads {
		switch {
		case errors.Is(err, errEpoch):
			c.askAgain(l, settle)
		case err != nil:
			c.finish(l, sidecarapi.Result{}, err)
		case !current || b.superseded(l, resolved.Results[i], resolved.Revision):
			c.askAgain(l, 0)
		case resolved.Results[i].Outcome == sidecarapi.Unusable:
			unusable = append(unusable, l.digest)
			c.finish(l, sidecarapi.Result{}, errUnusableResult)
		default:
			c.store(l.digest, b, resolved.Revision, resolved.Results[i])
			c.finish(l, resolved.Results[i], nil)
		}
	}
	return unusable
}

// recordUnusable counts results that cannot be used, and logs the first of them: one
// credential with a value that this version does not support would fill the log.
func (c *Cache) recordUnusable(digests []credential.Digest) {
	c.metrics.unusable.Add(float64(len(digests)))
	c.unusable.Do(func() {
		c.log.warn("unusable result of the key API: checks of such credentials get 503", zap.Stringer("sha256", digests[0]))
	})
}

// accept holds an answer as a whole against the log that is followed. Without a log
// there is nobody to ask which of two answers counts: the newer does, and what was
// cached by the other is suspect. c.mu is held.
func (c *Cache) accept(b *batch, r sidecarapi.Resolved) error {
	s := c.state.Load()
	switch {
	case s.noLog && s.epoch == "":
		next := *s
		next.epoch = r.Epoch
		c.state.Store(&next)
	case s.noLog && (s.epoch != r.Epoch || r.Revision < b.least):
		c.invalidateAll(r.Epoch, r.Revision)
	case s.epoch == "":
		return nil // no log is followed yet, and nothing that is stored will answer
	case s.epoch != r.Epoch:
		c.epochMismatch(r.Epoch, r.Revision)
		return errEpoch
	case r.Revision < b.least:
		return errBack
	}
	c.seen = max(c.seen, r.Revision)
	return nil
}

// superseded tells whether a change that came while the batch was under way is newer
// than its answer about the load's digest.
func (b *batch) superseded(l *load, r sidecarapi.Result, revision int64) bool {
	if l.changed > revision {
		return true
	}
	return r.Outcome == sidecarapi.Found && b.accounts[r.Record.Account.ID] > revision
}

// askAgain puts a load into a new batch. c.mu is held.
func (c *Cache) askAgain(l *load, pause time.Duration) {
	if l.asks >= maxAsks {
		c.finish(l, sidecarapi.Result{}, errUnquiet)
		return
	}
	if pause == 0 {
		c.enqueue(l)
		return
	}
	time.AfterFunc(pause, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.enqueue(l)
	})
}

// finish ends a load for all that wait on it. Its token is returned if it found a credential
// in force or had no usable result. c.mu is held.
func (c *Cache) finish(l *load, r sidecarapi.Result, err error) {
	if c.loads[l.digest] == l {
		delete(c.loads, l.digest)
	}
	if l.token != nil {
		if found := r.Outcome == sidecarapi.Found && inForce(&r.Record, time.Now()); found || err != nil {
			l.token.refund()
		} else {
			l.token.consume()
		}
	}
	l.result, l.err = r, err
	close(l.done)
}

// store keeps what was told. c.mu is held.
func (c *Cache) store(d credential.Digest, b *batch, revision int64, r sidecarapi.Result) {
	e := &entry{
		rec:        r.Record,
		found:      r.Outcome == sidecarapi.Found,
		revision:   revision,
		generation: b.generation,
		confirmed:  b.at,
		used:       b.at,
	}
	if e.found {
		e.account = c.join(r.Record.Account.ID)
	}
	s := c.pools.of(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(d, e, time.Now())
}

// moveExpired moves a credential that has expired out of the pool of known ones.
func (c *Cache) moveExpired(d credential.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, s := time.Now(), c.pools.of(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.known.Peek(d); ok && e.expired(now) {
		e.account.entries++ // put takes it out of one pool before it adds it to the other
		s.put(d, e, now)
	}
}

// join returns the account that an entry points to. c.mu is held.
func (c *Cache) join(id string) *account {
	a := c.accounts[id]
	if a == nil {
		a = &account{}
		c.accounts[id] = a
	}
	a.entries++
	return a
}

// evicted is called for every entry that leaves a pool. Entries come and go under c.mu alone.
func (c *Cache) evicted(e *entry) {
	if e.account == nil {
		return
	}
	if e.account.entries--; e.account.entries == 0 {
		delete(c.accounts, e.rec.Account.ID)
	}
}

// wait waits for a load, at most as long as ctx.
func wait(ctx context.Context, l *load) (sidecarapi.Result, error) {
	select {
	case <-l.done:
		return l.result, l.err
	case <-ctx.Done():
		return sidecarapi.Result{}, ctx.Err()
	}
}
