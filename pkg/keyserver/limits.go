package keyserver

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"
)

// OwnerLimits bounds the writes of one account on the owners' side. The zero OwnerLimits
// refuses all of them.
type OwnerLimits struct {
	// ChangesPerMinute is how many writes are accepted in the long run, refused ones included.
	ChangesPerMinute int
	// Burst is how many are accepted in a row after a pause.
	Burst int
	// Concurrent is how many may be in flight, from their headers on. A write that only waits for
	// its change to become effective does not count.
	Concurrent int
}

// limitedAccounts bounds the token buckets in memory, about 150 bytes each. Smaller lets
// accounts that write at the same time share their buckets; larger costs memory.
const limitedAccounts = 64 << 10

// writeLimits keeps OwnerLimits for each account. It is safe for concurrent use.
//
// The account's name comes from Envoy, so any number of them may arrive. A bucket that has
// not been used for long is full again and can be dropped. When there is no room, the account
// that is new takes over the bucket that was unused for longest, with the tokens that are in
// it: so nobody gets a full bucket by having others evicted. The counts of what is in flight
// exist only as long as the requests do.
type writeLimits struct {
	accounts int // buckets at most
	mu       sync.Mutex
	buckets  *simplelru.LRU[string, *rate.Limiter]
	inFlight map[string]int
}

func newWriteLimits(accounts int) *writeLimits {
	buckets, err := simplelru.NewLRU[string, *rate.Limiter](accounts, nil)
	if err != nil {
		panic(err) // for a size below 1 only
	}
	return &writeLimits{accounts: accounts, buckets: buckets, inFlight: map[string]int{}}
}

// begin lets one write of the account begin, or refuses it. Release is to be called when the
// write is over; it may be called again.
func (l *writeLimits) begin(account string, limits OwnerLimits) (release func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inFlight[account] >= limits.Concurrent {
		return nil, tooMany(time.Second, "at most %d changes of an account at the same time", limits.Concurrent)
	}
	now := time.Now()
	taken := l.bucket(account, limits, now).ReserveN(now, 1)
	if wait := taken.DelayFrom(now); wait > 0 { // also where there can never be a token
		taken.CancelAt(now)
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

// bucket returns the account's bucket with the limits of the moment.
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

// tooMany is the refusal of a request that may be repeated after the wait.
func tooMany(wait time.Duration, format string, args ...any) error {
	seconds := int64(math.Ceil(min(wait, time.Hour).Seconds()))
	return &problem{
		status:  http.StatusTooManyRequests,
		message: "Too many requests: " + fmt.Sprintf(format, args...),
		header:  map[string]string{"Retry-After": strconv.FormatInt(seconds, 10)},
	}
}
