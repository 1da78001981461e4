package keycache

import (
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

const (
	// tripAfter failures in a row, with no success between, the key API counts as down.
	tripAfter = 3
	// probeEvery is how often it is then asked whether it is back, jittered by half.
	probeEvery = 200 * time.Millisecond
)

var errDown = errors.New("the key API is down: not asked")

// breaker refuses resolves while the key API is down, so that a check is answered at
// once instead of after a timeout. No check pays for finding out that it is back: a
// probe of its own does.
type breaker struct {
	mu     sync.Mutex
	failed int // in a row
	open   bool
}

func (b *breaker) allows() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.open
}

// report notes how a resolve ended. It tells whether the first failure of a row, the
// trip, or the end of an outage was reached.
func (b *breaker) report(ok bool) (first, tripped, recovered bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ok {
		recovered = b.open
		b.failed, b.open = 0, false
		return false, false, recovered
	}
	b.failed++
	if b.failed >= tripAfter && !b.open {
		b.open, tripped = true, true
	}
	return b.failed == 1, tripped, false
}

// note reports a resolve's end to breaker and log. Each outage is logged when it
// begins, when it is taken for one, and when it is over.
func (c *Cache) note(err error, sample credential.Digest) {
	if err != nil && c.life.Err() != nil {
		return // not the key API's failure
	}
	if err == nil {
		c.markAnswered()
	}
	first, tripped, recovered := c.breaker.report(err == nil)
	switch {
	case tripped:
		c.mu.Lock()
		if !c.closed {
			c.background.Go(func() { c.probe(sample) })
		}
		c.mu.Unlock()
		// The poll in flight may wait on a connection that is lost.
		c.wakeFollower()
		c.log.error("the key API is down: uncached credentials get 503 until it answers", zap.Error(err))
	case recovered:
		c.log.info("the key API answers again")
	case first:
		c.log.warn("a resolve has failed", zap.Error(err))
	}
}

// probe asks again and again, until the key API answers.
func (c *Cache) probe(sample credential.Digest) {
	for !c.breaker.allows() {
		if !c.sleep(probeEvery/2 + rand.N(probeEvery)) {
			return
		}
		_, err := c.api.Resolve(c.life, []credential.Digest{sample})
		c.note(err, sample)
	}
}
