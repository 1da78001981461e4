// Package keycache returns the record of a credential's digest: from memory if the cached entry may
// answer, else from a key API. It caches facts and no decisions.
//
// # Entries
//
// Credentials in force are kept in one bounded LRU. Unknown digests and credentials that are not
// in force are kept in another, so a flood of them evicts no good key. The mode (entry.go) says
// which entries may answer. While the lease is live, all do that no change has named. After its
// end, those do that were revalidated within ConfirmAfter. If the key API cannot be reached,
// credentials are then served stale, until the moment that it has on record for this sidecar.
// After that moment and before the first lease no entry answers. A key API without a change
// log gets time-to-live mode, if the options allow it.
//
// # Lease
//
// The follower (follow.go) long-polls the change log. One poll is cursor, acknowledgement,
// heartbeat and lease. The lease runs from the moment the poll was sent, less a margin for the
// drift of both clocks, so it ends here before it ends at the key API. Changes are applied before
// they are acknowledged. Cache.mu orders changes and fills: a fill that was requested before a
// change that names it is requested again, for all that wait. When the log is replaced or the
// follower starts over, everything is invalidated and revalidated in batches (revalidate.go).
//
// # Resolves
//
// Concurrent misses of a digest share one load, and loads of one millisecond share one resolve
// (load.go). Look-ups of digests that are not cached pass a token bucket (limiter.go). While the
// key API is down, a circuit breaker fails resolves without sending them.
//
// # Cost
//
// A hit takes the lock of one of up to 64 shards, two atomic reads and no allocation. A change of
// an account is one store for all of its keys. A credential takes 190 bytes, of which 136 are its
// entry (pools.go). Entries share account ids and sets of scopes (shared.go).
package keycache

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// KeyAPI is the cache's source. sidecarapi.Client implements it.
type KeyAPI interface {
	// Resolve returns the facts about digests. It has its own timeout.
	Resolve(ctx context.Context, digests []credential.Digest) (sidecarapi.Resolved, error)
	// Changes polls the change log. The errors sidecarapi.ErrNotOffered, sidecarapi.ErrConflict and
	// *sidecarapi.Gone are answers. It must not send a poll twice.
	Changes(ctx context.Context, poll sidecarapi.ChangesRequest) (sidecarapi.Changes, error)
}

// Options of a Cache.
type Options struct {
	// Name returns a new name of this process for the key API at each call, 1 to
	// sidecarapi.MaxSidecar characters, that no other process has had. A name is used until
	// the key API refuses it (409).
	Name func() string
	// ChangesOptional allows time-to-live mode: a 404 of the change log means that the key API
	// offers none. By default it is an error, because an intermediary can cause one.
	ChangesOptional bool

	Known     int // credentials in force that are kept
	Unknown   int // other digests that are kept
	Times     Times
	Admission Admission
	Log       *zap.Logger // should not block: polls and resolves wait for it
	Metrics   prometheus.Registerer
	Panics    prometheus.Counter // counts panics of goroutines, which end Run; nil: they are only logged
}

// Cache resolves digests, from memory where it can. It is safe for concurrent use. Its owner runs
// Run and calls Close.
type Cache struct {
	api             KeyAPI
	newName         func() string
	changesOptional bool
	log             *zap.Logger // not used while a lock is held
	metrics         *metrics
	panics          prometheus.Counter

	pools    pools
	state    atomic.Pointer[state] // written under mu
	times    atomic.Pointer[Times]
	failures atomic.Int64 // of resolves, in a row

	pollsFailing atomic.Bool  // several in a row
	acknowledged atomic.Int64 // when a poll was last answered with a lease, or New was called, in nanoseconds since origin
	logUnusable  sync.Once

	answered     chan struct{} // closed by the key API's first answer
	markAnswered func()
	wake         chan struct{} // has the follower poll immediately

	ctx        context.Context // of the goroutines
	cancel     context.CancelFunc
	goroutines sync.WaitGroup
	panicked   chan error // the first panic of a goroutine

	// mu orders fills and changes, and guards the fields below.
	mu           sync.Mutex
	loads        map[credential.Digest]*load // newest of each digest
	limiter      *limiter[*load]
	limiterAt    time.Time            // when runLimiter is called next; zero if it is not
	open         *batch               // collects loads; nil if there are none
	inFlight     map[*batch]struct{}  // sent and not answered
	accounts     map[string]*account  // of the entries of both pools
	scopeSets    map[string]*scopeSet // of these entries
	cursor       cursor
	revision     int64            // newest seen of the log
	pendingEpoch *sidecarapi.Gone // head of another epoch in a resolve, until a poll has confirmed or refuted it
	closed       bool
}

// New makes an empty cache in front of api.
func New(api KeyAPI, o Options) *Cache {
	c := &Cache{
		api:             api,
		newName:         o.Name,
		changesOptional: o.ChangesOptional,
		log:             o.Log,
		panics:          o.Panics,
		cursor:          cursor{name: o.Name(), after: headOnly},
		answered:        make(chan struct{}),
		wake:            make(chan struct{}, 1),
		loads:           make(map[credential.Digest]*load),
		limiter:         newLimiter[*load](o.Admission),
		inFlight:        make(map[*batch]struct{}),
		panicked:        make(chan error, 1),
		accounts:        make(map[string]*account),
		scopeSets:       make(map[string]*scopeSet),
	}
	c.markAnswered = sync.OnceFunc(func() { close(c.answered) })
	c.pools = newPools(o.Known, o.Unknown, c.leave)
	c.state.Store(&state{})
	c.times.Store(&o.Times)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.acknowledged.Store(int64(time.Since(origin)))
	c.metrics = newMetrics(o.Metrics, c)
	return c
}

// SetTimes replaces the bounds of trust. A longer MaxStale counts from the poll that declares it to
// the key API, a shorter one immediately.
func (c *Cache) SetTimes(t Times) { c.times.Store(&t) }

// SetAdmission replaces the limit of look-ups that are not cached. It adds no tokens.
func (c *Cache) SetAdmission(a Admission) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limiter.configure(a, time.Now())
	c.runLimiter()
}

// Name returns the current name of this process for the key API.
func (c *Cache) Name() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cursor.name
}

// Answered returns a channel that is closed by the key API's first answer.
func (c *Cache) Answered() <-chan struct{} { return c.answered }

// mode returns the mode of this moment.
func (c *Cache) mode() mode { return c.state.Load().mode(c.times.Load(), momentOf(time.Now())) }

// Lookup returns the record of a digest, or found false if the key API has none. It returns an error
// if neither a resolve nor the cache has a usable result: credential.ErrRateLimited, ctx's
// error, or the cause of the failed resolve.
func (c *Cache) Lookup(ctx context.Context, d credential.Digest) (rec credential.Record, found bool, err error) {
	rec, found, known := c.Cached(d)
	if known {
		return rec, found, nil
	}
	cached := c.tend(ctx, d)
	if cached {
		if rec, found, known = c.Cached(d); known {
			return rec, found, nil
		}
	}
	if c.down() {
		return c.serveStale(d, errDown)
	}
	c.metrics.misses.Inc()
	r, err := wait(ctx, c.request(ctx, d, cached))
	if err != nil {
		return c.serveStale(d, err)
	}
	return r.Record, r.Outcome == sidecarapi.Found, nil
}

// Cached is Lookup for the digests that need nothing but the cache: it waits for nothing, starts no
// load and allocates nothing. Known false means that Lookup has to decide, because there is no
// entry, it may not answer now, or it is due for a refresh. Only an answer is counted.
func (c *Cache) Cached(d credential.Digest) (rec credential.Record, found, known bool) {
	now, down, s := momentOf(time.Now()), c.down(), c.pools.of(d)
	s.mu.Lock()
	defer s.mu.Unlock() // also after a panic, which the module recovers
	e, f := c.answering(s, d, now, down)
	switch {
	case e == nil:
		return credential.Record{}, false, false
	case f == stale:
		c.metrics.servedStale.Inc()
	default:
		c.metrics.hits.Inc()
	}
	return e.record(), e.found, true
}

// answering returns the digest's entry and its freshness, nil if it may not answer without a
// resolve. While the key API is down there are no resolves: a stale entry answers if the mode
// allows it, and a refresh is put off. The shard's lock is held.
func (c *Cache) answering(s *shard, d credential.Digest, now moment, down bool) (*entry, freshness) {
	e := s.get(d, now)
	if e == nil || e.hasToMove(now) {
		return nil, stale
	}
	state, times := c.state.Load(), c.times.Load()
	f := state.freshness(e, times, now)
	switch {
	case f == fresh:
		return e, f
	case f == refresh && down:
		e.refreshed = now.mono
		return e, f
	case f == stale && down && state.mayServeStale(e, times, now):
		return e, f
	}
	return nil, f
}

// tend does what Cached leaves to Lookup for an entry that may answer: it moves an entry that has
// expired to the pool of unknown digests, and starts a refresh that is due. It reports whether
// there is an entry.
func (c *Cache) tend(ctx context.Context, d credential.Digest) (cached bool) {
	cached, expired, due := c.dueOf(d)
	if expired {
		c.moveExpired(d)
	}
	if due && !c.down() {
		c.request(ctx, d, true)
	}
	return cached
}

// dueOf returns what tend has to do, and notes that it does it.
func (c *Cache) dueOf(d credential.Digest) (cached, expired, due bool) {
	now, s := momentOf(time.Now()), c.pools.of(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.get(d, now)
	if e == nil {
		return false, false, false
	}
	if due = c.state.Load().freshness(e, c.times.Load(), now) == refresh; due {
		e.refreshed = now.mono
	}
	return true, e.hasToMove(now), due
}

// serveStale answers from a stale entry if the mode allows it; cause is why no resolve had a
// usable result.
func (c *Cache) serveStale(d credential.Digest, cause error) (rec credential.Record, found bool, err error) {
	now, s := momentOf(time.Now()), c.pools.of(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.get(d, now)
	if e != nil && c.state.Load().mayServeStale(e, c.times.Load(), now) {
		c.metrics.servedStale.Inc()
		return e.record(), e.found, nil
	}
	c.metrics.failures.Inc()
	return credential.Record{}, false, fmt.Errorf("no cached record may be served: %w", cause)
}

// Close ends all goroutines and waits for them. Look-ups that still wait return an error.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.goroutines.Wait()
}

// sleep waits, and reports whether the cache is still open.
func (c *Cache) sleep(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-c.ctx.Done():
		return false
	}
}

// spawn runs f in a goroutine, which Close waits for.
func (c *Cache) spawn(f func()) {
	c.goroutines.Go(func() {
		defer c.recovered()
		f()
	})
}

// recovered has Run return the panic of a goroutine as an error. The process may be Envoy, which must
// not end. The text of the panic may hold a secret.
func (c *Cache) recovered() {
	value := recover()
	if value == nil {
		return
	}
	if c.panics != nil {
		c.panics.Inc()
	}
	c.log.Error("cache panicked: checks get 503 until the sidecar has restarted", zap.String("panic", fmt.Sprintf("%T", value)), zap.Stack("stack"))
	select {
	case c.panicked <- fmt.Errorf("cache panicked: %T", value):
		c.wakeFollower()
	default:
	}
}

// after calls f with c.mu held, after a time.
func (c *Cache) after(d time.Duration, f func()) {
	time.AfterFunc(d, func() {
		defer c.recovered()
		c.mu.Lock()
		defer c.mu.Unlock()
		f()
	})
}

// jitter returns a random time of d/2 to 3d/2.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d) }
