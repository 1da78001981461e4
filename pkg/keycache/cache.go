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
	"github.com/phantomrouter/phantom-authz/pkg/keyapi"
)

// KeyAPI is what the cache stands in front of; keyapi.Client is one.
type KeyAPI interface {
	// Resolve asks for the facts about digests. It has a time limit of its own. An error
	// says that nothing was learned.
	Resolve(ctx context.Context, digests []credential.Digest) (keyapi.Resolved, error)
	// Changes polls the change log. keyapi.ErrNotOffered and *keyapi.Gone have a meaning.
	Changes(ctx context.Context, poll keyapi.ChangesRequest) (keyapi.Changes, error)
}

// Options of a Cache.
type Options struct {
	Sidecar   string // this process's name for the key API: unique, and stable while it lives
	Known     int    // credentials kept
	Unknown   int    // unknown digests kept
	Times     Times
	Admission Admission
	Log       *zap.Logger
	Metrics   prometheus.Registerer
}

// Cache resolves digests, from memory where it can. It is safe for concurrent use.
// Whoever makes one runs Run and calls Close.
type Cache struct {
	api     KeyAPI
	sidecar string
	log     *zap.Logger
	metrics *metrics

	pools   pools
	state   atomic.Pointer[state] // written under mu
	times   atomic.Pointer[Times]
	breaker breaker

	unusable sync.Once // logged

	answered     chan struct{} // closed once the key API has answered
	answeredOnce sync.Once
	kick         chan struct{} // wakes the follower: the log may have been replaced

	life       context.Context // of everything in the background
	end        context.CancelFunc
	background sync.WaitGroup

	// mu orders fills and changes, and guards what follows.
	mu       sync.Mutex
	loads    map[credential.Digest]*load // newest of each digest
	limit    *limiter
	open     *batch // takes loads; nil if none waits
	flying   map[*batch]struct{}
	accounts map[string]*account // of the known entries
	seen     int64               // newest revision seen of the log
	stray    *keyapi.Gone        // another log that an answer came from, not yet asked about
	closed   bool
}

// New makes an empty cache in front of api.
func New(api KeyAPI, o Options) *Cache {
	c := &Cache{
		api:      api,
		sidecar:  o.Sidecar,
		log:      o.Log,
		answered: make(chan struct{}),
		kick:     make(chan struct{}, 1),
		loads:    make(map[credential.Digest]*load),
		flying:   make(map[*batch]struct{}),
		accounts: make(map[string]*account),
	}
	c.pools = newPools(o.Known, o.Unknown, c.leave)
	c.state.Store(&state{})
	c.times.Store(&o.Times)
	c.limit = newLimiter(c, o.Admission)
	c.life, c.end = context.WithCancel(context.Background())
	c.metrics = newMetrics(o.Metrics, c)
	return c
}

// SetTimes replaces the bounds of trust. A longer MaxStale counts from the next poll
// on, which declares it to the key API.
func (c *Cache) SetTimes(t Times) { c.times.Store(&t) }

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
	e, v := c.peek(d, state, *times, now)
	known := e != nil && e.found
	switch v {
	case answer:
		c.metrics.hits.Inc()
		return e.rec, e.found, nil
	case refresh:
		c.metrics.hits.Inc()
		if c.breaker.allows() {
			c.request(d, known, state.mode(now))
		}
		return e.rec, e.found, nil
	case ask:
	}
	if !c.breaker.allows() {
		return c.makeDo(d, errDown)
	}
	c.metrics.misses.Inc()
	r, err := wait(ctx, c.request(d, known, state.mode(now)))
	if err != nil {
		return c.makeDo(d, err)
	}
	return r.Record, r.Outcome == keyapi.Found, nil
}

// peek looks an entry up and says what it is good for.
func (c *Cache) peek(d credential.Digest, s *state, t Times, now time.Time) (*entry, verdict) {
	shard := c.pools.of(d)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	e, ok := shard.use(d, now)
	if !ok {
		return nil, ask
	}
	v := s.judge(e, t, now)
	if v == refresh {
		e.refreshed = now
	}
	return e, v
}

// makeDo answers from an entry as the last resort, when nothing could be learned.
func (c *Cache) makeDo(d credential.Digest, why error) (credential.Record, bool, error) {
	now, shard := time.Now(), c.pools.of(d)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	e, ok := shard.use(d, now)
	if ok && c.state.Load().lastResort(e, *c.times.Load(), now) {
		c.metrics.lastResort.Inc()
		return e.rec, e.found, nil
	}
	c.metrics.failures.Inc()
	return credential.Record{}, false, fmt.Errorf("nothing usable is cached: %w", why)
}

// Close ends everything in the background and waits for it. Checks that still wait
// get an error.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.end()
	c.background.Wait()
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
