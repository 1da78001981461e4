package keyserver

import (
	"fmt"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
)

// OwnerLimits bounds the writes of one account on the owners' side. The zero OwnerLimits rejects all of them.
type OwnerLimits struct {
	// ChangesPerMinute is the sustained rate of writes, including those that are rejected for another reason.
	ChangesPerMinute int
	// Burst is how many are accepted in a row after a pause.
	Burst int
	// Concurrent is how many may be in flight, from their headers on. A write that only waits for its change to
	// become effective does not count.
	Concurrent int
}

// limitedAccounts bounds the token buckets in memory, about 150 bytes each. Smaller makes accounts that write at the
// same time share their buckets; larger costs memory.
const limitedAccounts = 64 << 10

// writeLimits applies OwnerLimits to each account. It is safe for concurrent use.
//
// Account names come from Envoy, so there may be any number of them. A bucket that has not been used for long is
// full and can be dropped. If there is no room, a new account takes over the least recently used bucket with the
// tokens that are in it. So evicting the buckets of others does not give an account a full one. The counts of
// writes in flight exist only as long as the requests do.
type writeLimits struct {
	accounts int                    // maximum number of buckets
	rejected *prometheus.CounterVec // by limit

	mu       sync.Mutex
	buckets  *simplelru.LRU[string, *rate.Limiter]
	inFlight map[string]int
}

// The values of the label limit of rejected writes.
const (
	rateLimit       = "rate"
	concurrentLimit = "concurrent"
)

func newWriteLimits(accounts int, rejected *prometheus.CounterVec) *writeLimits {
	buckets, err := simplelru.NewLRU[string, *rate.Limiter](accounts, nil)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return &writeLimits{accounts: accounts, rejected: rejected, buckets: buckets, inFlight: map[string]int{}}
}

// begin admits one write of the account or rejects it. release ends the write; it may be called again.
func (l *writeLimits) begin(account string, limits OwnerLimits) (release func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inFlight[account] >= limits.Concurrent {
		l.rejected.WithLabelValues(concurrentLimit).Inc()
		return nil, tooMany(time.Second, "at most %d changes of an account at the same time", limits.Concurrent)
	}
	now := time.Now()
	token := l.bucket(account, limits, now).ReserveN(now, 1)
	if wait := token.DelayFrom(now); wait > 0 { // infinite if there can never be a token
		token.CancelAt(now)
		l.rejected.WithLabelValues(rateLimit).Inc()
		return nil, tooMany(wait, "at most %d changes of an account in a minute", limits.ChangesPerMinute)
	}
	l.inFlight[account]++
	return sync.OnceFunc(func() { l.end(account) }), nil
}

func (l *writeLimits) end(account string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inFlight[account]--; l.inFlight[account] == 0 {
		delete(l.inFlight, account)
	}
}

// bucket returns the account's bucket with the current limits.
func (l *writeLimits) bucket(account string, limits OwnerLimits, now time.Time) *rate.Limiter {
	perSecond := rate.Limit(float64(limits.ChangesPerMinute) / 60)
	bucket, known := l.buckets.Get(account)
	if !known {
		bucket = rate.NewLimiter(perSecond, limits.Burst)
		if l.buckets.Len() >= l.accounts {
			_, bucket, _ = l.buckets.RemoveOldest()
		}
		l.buckets.Add(account, bucket)
	}
	if bucket.Limit() != perSecond {
		bucket.SetLimitAt(now, perSecond)
	}
	if bucket.Burst() != limits.Burst {
		bucket.SetBurstAt(now, limits.Burst)
	}
	return bucket
}

// tooMany rejects a request that may be repeated after the wait.
func tooMany(wait time.Duration, format string, args ...any) error {
	seconds := math.Ceil(min(wait, time.Hour).Seconds())
	return httpapi.Errorf(http.StatusTooManyRequests, "Too many requests: %s", fmt.Sprintf(format, args...)).RetryAfter(int64(seconds))
}
