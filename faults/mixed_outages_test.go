package faults_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// checkLate checks that uncached keys got 503 beside the outages only because look-ups failed: on a busy machine keyd may take
// longer than the timeout.
func (m *mixed) checkLate() {
	const most = 0.001 // of all requests
	m.t.Helper()
	sum, _ := m.results.sums()
	m.lateLookUps += m.failedLookUps()
	late := m.late.Load()
	m.t.Logf("%d requests got 503 beside the outages, while %v look-ups failed; %d others while the machine stalled", late, m.lateLookUps, m.stalledOut.Load())
	if late > 0 && m.lateLookUps == 0 || float64(late) > most*float64(sum) {
		m.t.Errorf("%d requests got 503 beside the outages", late)
	}
}

// failedLookUps returns the number of failed look-ups of all sidecars so far.
func (m *mixed) failedLookUps() float64 {
	failed := m.failedBefore
	for _, d := range m.deciders {
		failed += failedLookUps(m.t.Context(), d.now())
	}
	return failed
}

func failedLookUps(ctx context.Context, p *testbed.Process) (failed float64) {
	for _, outcome := range []string{"unreachable", "status", "malformed"} {
		n, err := p.Metric(ctx, resolves+`{outcome="`+outcome+`"}`)
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
	m.disturbing.Lock()
	defer m.disturbing.Unlock()
	if ctx.Err() != nil {
		return
	}
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
	m.outages.recover()
	for _, d := range m.deciders { // after max_stale the keys must be resolved again before they are cached
		m.awaitReady(d)
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
	name               string
	begin, repair, end time.Time // repair is the end of the fault
	excused            int       // requests that got 503
}

// overlaps reports whether the period has a moment in common with these times.
func (p period) overlaps(from, to time.Time) bool {
	return p.begin.Before(to) && (p.end.IsZero() || from.Before(p.end))
}

func (o *outages) begin(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = append(o.all, period{name: name, begin: time.Now()})
}

// recover notes the end of the fault.
func (o *outages) recover() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all[len(o.all)-1].repair = time.Now()
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
	i := slices.IndexFunc(o.all, func(p period) bool {
		if kept {
			p.begin = p.begin.Add(mixedPace.maxStale)
		}
		return p.overlaps(sent, received)
	})
	if i >= 0 {
		o.all[i].excused++
	}
	return i >= 0
}

// during reports whether there was an outage between these times.
func (o *outages) during(from, to time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.ContainsFunc(o.all, func(p period) bool { return p.overlaps(from, to) })
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
