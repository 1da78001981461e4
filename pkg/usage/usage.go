// Package usage reports to the key API when keys were last used and how often, in batches about
// once a minute. A use costs one map access under the lock of one of 64 shards. Uses beyond the
// bound and failed reports are dropped, because a lost report is harmless.
package usage

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
	"github.com/phantomrouter/phantom-authz/pkg/telemetry"
)

const (
	// reportEvery is the time between two reports, jittered by a quarter. Larger delays usage and
	// drops more of it; smaller costs requests.
	reportEvery = time.Minute
	// reportTimeout is the time for all requests of one report. Larger delays a shutdown, which
	// sends the last report; smaller loses reports when the key API is slow.
	reportTimeout = 2 * time.Second
	// shards is the number of locks. Smaller makes checks wait for each other; larger costs memory.
	shards = 64
	// maxPerShard is the number of keys of a shard in one report, about 100,000 in all. Larger
	// costs memory; smaller drops the usage of more keys.
	maxPerShard = 1600
)

// KeyAPI receives reports. It is implemented by sidecarapi.Client.
type KeyAPI interface {
	// Usage sends a report of at most sidecarapi.MaxUsed keys. After sidecarapi.ErrNotOffered no
	// more reports are sent.
	Usage(ctx context.Context, report sidecarapi.UsageRequest) error
}

// Recorder records uses, which Run reports. It is safe for concurrent use.
type Recorder struct {
	api     KeyAPI
	sidecar func() string
	log     *zap.Logger
	off     atomic.Bool // the key API does not accept reports
	dropped prometheus.Counter
	reports *prometheus.CounterVec
	shards  [shards]shard
}

type shard struct {
	mu   sync.Mutex
	used map[credential.Digest]*use
}

type use struct {
	last            time.Time
	allowed, denied int64
}

// New makes an empty recorder. It calls sidecar for the name in each report, because the cache
// replaces its name after a conflict.
func New(api KeyAPI, sidecar func() string, log *zap.Logger, reg prometheus.Registerer) *Recorder {
	r := &Recorder{
		api: api, sidecar: sidecar, log: log,
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "phantom_authz_usage_dropped_total", Help: "Uses of keys that were dropped because the recorder was full.",
		}),
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "phantom_authz_usage_reports_total", Help: "Usage reports to the key API by outcome.",
		}, []string{"outcome"}),
	}
	for i := range r.shards {
		r.shards[i].used = make(map[credential.Digest]*use)
	}
	telemetry.Preset(r.reports, "ok", "lost")
	reg.MustRegister(r.dropped, r.reports)
	return r
}

// Used records one use of a key.
func (r *Recorder) Used(d credential.Digest, allowed bool, at time.Time) {
	if r.off.Load() {
		return
	}
	s := &r.shards[d[0]%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.used[d]
	if u == nil {
		if len(s.used) >= maxPerShard {
			r.dropped.Inc()
			return
		}
		u = new(use)
		s.used[d] = u
	}
	if at.After(u.last) {
		u.last = at
	}
	if allowed {
		u.allowed++
	} else {
		u.denied++
	}
}

// Run sends reports until ctx ends, and then a last one.
func (r *Recorder) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(reportEvery - reportEvery/4 + rand.N(reportEvery/2)):
		}
		r.report(context.WithoutCancel(ctx))
	}
	return nil
}

// report sends the uses since the last report.
func (r *Recorder) report(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	for used := r.drain(); len(used) > 0; {
		n := min(len(used), sidecarapi.MaxUsed)
		err := r.api.Usage(ctx, sidecarapi.UsageRequest{Sidecar: r.sidecar(), Used: used[:n]})
		used = used[n:]
		switch {
		case err == nil:
			r.reports.WithLabelValues("ok").Inc()
		case errors.Is(err, sidecarapi.ErrNotOffered):
			r.log.Info("key API does not accept usage reports: usage is not recorded")
			r.off.Store(true)
			return
		default:
			r.reports.WithLabelValues("lost").Inc()
		}
	}
}

// drain returns and removes all uses.
func (r *Recorder) drain() []sidecarapi.Used {
	var all []sidecarapi.Used
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		used := s.used
		s.used = make(map[credential.Digest]*use, len(used))
		s.mu.Unlock()
		for d, u := range used {
			all = append(all, sidecarapi.Used{SHA256: d.Hex(), LastUsedAt: u.last.UTC(), Allowed: u.allowed, Denied: u.denied})
		}
	}
	return all
}
