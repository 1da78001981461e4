package faults_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// checkLate checks that uncached keys got 503 beside the outages only because look-ups failed: on a busy machine keyd may take
// longer than the timeout.
func (m *mixed) checkLate() {
	const most = 0.001 // of all requests
	m.t.Helper()
	sum, _ := m.results.sums()
	m.lateLookUps += m.failedLookUps()
	m.t.Logf("%d requests got 503 beside the outages, while %v look-ups failed", m.late.Load(), m.lateLookUps)
	if late := m.late.Load(); late > 0 && m.lateLookUps == 0 || float64(late) > most*float64(sum) {
		m.t.Errorf("%d requests got 503 beside the outages", late)
	}
}

// failedLookUps returns the number of failed look-ups so far.
func (m *mixed) failedLookUps() (failed float64) {
	for _, outcome := range []string{"unreachable", "status", "malformed"} {
		n, err := m.proxy.Metric(m.t.Context(), `phantom_authz_resolves_total{outcome="`+outcome+`"}`)
		if err == nil { // a series appears with its first failure
			failed += n
		}
	}
	return failed
}

// faultOrder are the faults of a mixed load, the most different ones first.
var faultOrder = []string{"hang", "down", "truncated", "500", "slow", "half-open", "reset", "malformed", "slow drip", "404 of an intermediary"}

// failKeyAPI is one outage, and waits for the recovery.
func (m *mixed) failKeyAPI(ctx context.Context, n int) {
	all := faults()
	f := all[slices.IndexFunc(all, func(f fault) bool { return f.name == faultOrder[n%len(faultOrder)] })]
	m.lateLookUps += m.failedLookUps()
	m.outages.begin(f.name)
	f.begin(m.t, m.route)
	select {
	case <-time.After(mixedPace.outage[n%2]):
	case <-ctx.Done():
	}
	f.end(m.t, m.route)
	eventually(m.t, "a lease", func() error { return metricIs(m.t, m.proxy.Process, synced, 1) })
	eventually(m.t, "the key API", func() error { return metricIs(m.t, m.proxy.Process, down, 0) })
	for _, s := range m.kept { // after max_stale they must be resolved again before they are cached
		eventually(m.t, "cached key", func() error { return checkIs(m.proxy, s.secret, allowed) })
	}
	m.lateLookUps -= m.failedLookUps() // before the end: a look-up of the outage may fail after it, with a request that joined it
	m.outages.end()
}

// outages has the outages of the key API. The last one may be in progress.
type outages struct {
	mu  sync.Mutex
	all []period
}

// period is from the begin of an outage until the sidecar has recovered; until then end is zero.
type period struct {
	name       string
	begin, end time.Time
}

func (o *outages) begin(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = append(o.all, period{name: name, begin: time.Now()})
}

func (o *outages) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all[len(o.all)-1].end = time.Now()
}

// excuse reports whether a request may have been answered with 503. One with a cached key must be answered until max_stale is
// over.
func (o *outages) excuse(sent, received time.Time, kept bool) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.ContainsFunc(o.all, func(p period) bool {
		from := p.begin
		if kept {
			from = from.Add(mixedPace.maxStale)
		}
		return received.After(from) && (p.end.IsZero() || sent.Before(p.end))
	})
}

func (o *outages) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.all) == 0 {
		return "no outage yet"
	}
	last := o.all[len(o.all)-1]
	return fmt.Sprintf("outage %d, %s, from %s to %s", len(o.all), last.name, last.begin.Format(clock), last.end.Format(clock))
}

const clock = "15:04:05.000"
