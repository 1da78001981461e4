// Package usage tells the key API when keys were last used and how often, in batches
// about once a minute. It is beside the check and never in its way: noting a use
// takes one lock of one of 64 shards, what has no room is dropped, and a report that
// fails is lost, for losing one is harmless.
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
)

const (
	// reportEvery is the time between two reports, jittered by a quarter.
	reportEvery = time.Minute
	// reportTimeout bounds one report, and the last one of a stop.
	reportTimeout = 2 * time.Second
	shards        = 64
	// maxPerShard bounds what is noted between two reports to about 100,000 keys.
	maxPerShard = 1600
)

// KeyAPI takes reports; sidecarapi.Client is one.
type KeyAPI interface {
	// Usage sends one report of at most sidecarapi.MaxUsed keys. sidecarapi.ErrNotOffered says
	// that there is nobody to tell.
	Usage(ctx context.Context, report sidecarapi.UsageRequest) error
}

// Recorder gathers uses. It is safe for concurrent use; Run sends them.
type Recorder struct {
	api     KeyAPI
	sidecar func() string
	log     *zap.Logger
	off     atomic.Bool // the key API takes no reports
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

// New makes an empty recorder. Each report has the name that sidecar returns then, because
// the cache replaces its name after a conflict.
func New(api KeyAPI, sidecar func() string, log *zap.Logger, reg prometheus.Registerer) *Recorder {
	r := &Recorder{
		api: api, sidecar: sidecar, log: log,
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "phantom_authz_usage_dropped_total", Help: "Uses of keys that were not noted, for want of room.",
		}),
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "phantom_authz_usage_reports_total", Help: "Reports of usage to the key API by outcome.",
		}, []string{"outcome"}),
	}
	for i := range r.shards {
		r.shards[i].used = make(map[credential.Digest]*use)
	}
	reg.MustRegister(r.dropped, r.reports)
	return r
}

// Used notes one use of a key at that moment.
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

// Run reports until ctx ends, and then a last time.
func (r *Recorder) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		timer := time.NewTimer(reportEvery - reportEvery/4 + rand.N(reportEvery/2))
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		r.report(context.WithoutCancel(ctx))
	}
	return nil
}

// report sends what was noted since the last one.
func (r *Recorder) report(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	for used := r.take(); len(used) > 0; {
		n := min(len(used), sidecarapi.MaxUsed)
		err := r.api.Usage(ctx, sidecarapi.UsageRequest{Sidecar: r.sidecar(), Used: used[:n]})
		used = used[n:]
		switch {
		case err == nil:
			r.reports.WithLabelValues("ok").Inc()
		case errors.Is(err, sidecarapi.ErrNotOffered):
			r.log.Info("the key API takes no reports of usage")
			r.off.Store(true)
			return
		default:
			r.reports.WithLabelValues("lost").Inc()
		}
	}
}

// take empties the shards.
func (r *Recorder) take() []sidecarapi.Used {
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
