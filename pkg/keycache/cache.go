package keycache

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// KeyAPI is what the cache stands in front of; sidecarapi.Client is one.
type KeyAPI interface {
	// Resolve asks for the facts about digests. It has a time limit of its own. An error
	// says that nothing was learned.
	Resolve(ctx context.Context, digests []credential.Digest) (sidecarapi.Resolved, error)
	// Changes polls the change log. sidecarapi.ErrNotOffered, sidecarapi.ErrConflict and *sidecarapi.Gone
	// have a meaning. It must not send a poll twice.
	Changes(ctx context.Context, poll sidecarapi.ChangesRequest) (sidecarapi.Changes, error)
}

// Options of a Cache.
type Options struct {
	// Name returns a name of this process for the key API, 1 to sidecarapi.MaxSidecar characters.
	// Each call returns another one, which no other process has had. One is used until the
	// key API refuses it (409).
	Name func() string
	// ChangesOptional allows time-to-live mode: a 404 of the change log means that the key API
	// offers none. By default a 404 is an error like any other, because an intermediary can
	// cause one.
	ChangesOptional bool

	Known     int // credentials in force that are kept
	Unknown   int // unknown digests that are kept, and credentials not in force
	Times     Times
	Admission Admission
	Log       *zap.Logger
	Metrics   prometheus.Registerer
}

// Cache resolves digests, from memory where it can. It is safe for concurrent use.
// Whoever makes one runs Run and calls Close.
type Cache struct {
	api      KeyAPI
	newName  func() string
	optional bool // the change log
	log      *journal
	metrics  *metrics

	pools   pools
	state   atomic.Pointer[state] // written under mu
	times   atomic.Pointer[Times]
	breaker breaker

	pollsFail atomic.Bool // for longer than one poll
	unusable  sync.Once   // logged

	answered     chan struct{} // closed once the key API has answered
	answeredOnce sync.Once
	wake         chan struct{} // has the follower poll at once

	life       context.Context // of everything in the background
	end        context.CancelFunc
	background sync.WaitGroup

	// mu orders fills and changes, and guards what follows.
	mu       sync.Mutex
	loads    map[credential.Digest]*load // newest of each digest
	limit    *limiter
	open     *batch // takes loads; nil if none waits
	flying   map[*batch]struct{}
	accounts map[string]*account // of the entries of both pools
	at       cursor
	seen     int64            // newest revision seen of the log
	stray    *sidecarapi.Gone // another log that an answer came from, not yet asked about
	closed   bool
}

// New makes an empty cache in front of api.
func New(api KeyAPI, o Options) *Cache {
	c := &Cache{
		api:      api,
		newName:  o.Name,
		optional: o.ChangesOptional,
		log:      &journal{log: o.Log},
		at:       cursor{name: o.Name(), after: headOnly},
		answered: make(chan struct{}),
		wake:     make(chan struct{}, 1),
		loads:    make(map[credential.Digest]*load),
		flying:   make(map[*batch]struct{}),
		accounts: make(map[string]*account),
	}
	c.pools = newPools(o.Known, o.Unknown, c.evicted)
	c.state.Store(&state{})
	c.times.Store(&o.Times)
	c.limit = newLimiter(c, o.Admission)
	c.life, c.end = context.WithCancel(context.Background())
	c.metrics = newMetrics(o.Metrics, c)
	c.log.dropped = c.metrics.droppedLines
	return c
}

// SetTimes replaces the bounds of trust. A longer MaxStale counts from the next poll
// on, which declares it to the key API.
func (c *Cache) SetTimes(t Times) { c.times.Store(&t) }

// Name returns the name that this process has for the key API now.
func (c *Cache) Name() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at.name
}

// SetAdmission replaces the limit of look-ups of unknown digests.
func (c *Cache) SetAdmission(a Admission) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = newLimiter(c, a)
}

// Answered returns a channel that is closed once the key API has answered anything.
func (c *Cache) Answered() <-chan struct{} { return c.answered }

// Lookup returns the record of a digest, or found false if nobody knows it. With an
// error nothing was learned and nothing cached may stand in for it:
// credential.ErrRateLimited, ctx's error, or what kept the key API from answering.
func (c *Cache) Lookup(ctx context.Context, d credential.Digest) (credential.Record, bool, error) {
	now, state, times := time.Now(), c.state.Load(), c.times.Load()
	e, v, expired := c.get(d, state, *times, now)
	if expired {
		c.moveExpired(d)
	}
	cached := e != nil
	switch v {
	case answer:
		c.metrics.hits.Inc()
		return e.rec, e.found, nil
	case refresh:
		c.metrics.hits.Inc()
		if c.breaker.allows() {
			c.request(d, cached, state.mode(now))
		}
		return e.rec, e.found, nil
	case ask:
	}
	if !c.breaker.allows() {
		return c.serveStale(d, errDown)
	}
	c.metrics.misses.Inc()
	r, err := wait(ctx, c.request(d, cached, state.mode(now)))
	if err != nil {
		return c.serveStale(d, err)
	}
	return r.Record, r.Outcome == sidecarapi.Found, nil
}

// get returns the digest's entry, nil if there is none, and what it is good for. Expired
// reports that it is in the pool of known credentials and has expired.
func (c *Cache) get(d credential.Digest, s *state, t Times, now time.Time) (e *entry, v verdict, expired bool) {
	shard := c.pools.of(d)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	e, known := shard.use(d, now)
	if e == nil {
		return nil, ask, false
	}
	v = s.judge(e, t, now)
	if v == refresh {
		e.refreshed = now
	}
	return e, v, known && e.expired(now)
}

// serveStale answers from an entry that should have been revalidated, if the resolve had no
// usable result and the mode allows it.
func (c *Cache) serveStale(d credential.Digest, why error) (credential.Record, bool, error) {
	now, shard := time.Now(), c.pools.of(d)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	e, _ := shard.use(d, now)
	if e != nil && c.state.Load().mayServeStale(e, *c.times.Load(), now) {
		c.metrics.lastResort.Inc()
		return e.rec, e.found, nil
	}
	c.metrics.failures.Inc()
	return credential.Record{}, false, fmt.Errorf("nothing usable is cached: %w", why)
}

// Close ends everything in the background and waits for it, for pending log lines up to
// flushWait. Checks that still wait get an error.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.end()
	c.background.Wait()
	c.log.close()
}

// sleep waits, and says whether the cache still lives.
func (c *Cache) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.life.Done():
		return false
	}
}
