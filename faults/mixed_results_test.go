package faults_test

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/phantomrouter/phantom-authz/bench/result"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// phase is what disturbs the load while a request is in flight.
type phase int

const (
	undisturbed phase = iota
	inOutage          // of the key API
	inRestart         // of a sidecar
	stalled           // the machine, so that the latency says nothing about the sidecar
	phases
)

func (p phase) String() string {
	return [...]string{"undisturbed", "outage", "restart", "machine stalled"}[p]
}

// results are the answers of a load.
type results struct {
	kinds  map[string]*tally
	phases [phases]*durations        // of requests with cached keys
	window atomic.Pointer[durations] // the same since the last sample, without those of a stall
}

func newResults() *results {
	r := &results{kinds: map[string]*tally{}}
	for _, k := range kinds {
		r.kinds[k.name] = &tally{}
	}
	for p := range r.phases {
		r.phases[p] = &durations{}
	}
	r.window.Store(&durations{})
	return r
}

// tally counts the answers to one kind of requests.
type tally struct {
	allowed, denied, unavailable, limited, unanswered, wrong atomic.Int64
	excused                                                  atomic.Int64 // of unavailable: expected in an outage
	took                                                     durations
}

func (r *results) count(p phase, k kind, q question, got testbed.Answer, err error, took time.Duration) {
	c := r.kinds[k.name]
	if c.took.add(took); q.kept && q.id != "" {
		r.phases[p].add(took)
		if p != stalled {
			r.window.Load().add(took)
		}
	}
	switch {
	case err != nil:
		c.unanswered.Add(1)
	case got == allowed:
		c.allowed.Add(1)
	case got == unavailable:
		c.unavailable.Add(1)
	case got == rateLimited:
		c.limited.Add(1)
	default:
		c.denied.Add(1)
	}
}

func (c *tally) sum() int64 {
	return c.allowed.Load() + c.denied.Load() + c.unavailable.Load() + c.limited.Load() + c.unanswered.Load()
}

// sums returns the number of all requests and of wrong answers.
func (r *results) sums() (sum, wrong int64) {
	for _, c := range r.kinds {
		sum, wrong = sum+c.sum(), wrong+c.wrong.Load()
	}
	return sum, wrong
}

// table returns the answers by kind.
func (r *results) table() result.Table {
	t := result.Table{Columns: []string{"requests", "number", "allowed", "denied", "503 as expected", "other 503", "429", "no answer", "wrong", "p50, ms", "p99, ms"}}
	for _, k := range kinds {
		c := r.kinds[k.name]
		row := result.Row{Name: k.name}
		for _, n := range []int64{
			c.sum(), c.allowed.Load(), c.denied.Load(), c.excused.Load(), c.unavailable.Load() - c.excused.Load(), c.limited.Load(), c.unanswered.Load(), c.wrong.Load(),
		} {
			row.Cells = append(row.Cells, result.Value(float64(n)))
		}
		row.Cells = append(row.Cells, result.Value(c.took.quantile(0.5)), result.Value(c.took.quantile(0.99)))
		t.Rows = append(t.Rows, row)
	}
	return t
}

// durations is a histogram with buckets that are 9 % wide.
type durations struct{ buckets [256]atomic.Int64 }

const bucketsOfTwo = 8 // for each power of two of microseconds

func (d *durations) add(took time.Duration) {
	i := int(bucketsOfTwo * math.Log2(max(1, float64(took.Microseconds()))))
	d.buckets[min(i, len(d.buckets)-1)].Add(1)
}

func (d *durations) count() (total int64) {
	for i := range d.buckets {
		total += d.buckets[i].Load()
	}
	return total
}

// quantile returns the upper bound of a quantile, in milliseconds; 0 if there are no values.
func (d *durations) quantile(q float64) float64 {
	total, seen := d.count(), int64(0)
	for i := range d.buckets {
		if seen += d.buckets[i].Load(); seen > 0 && float64(seen) >= q*float64(total) {
			return math.Exp2(float64(i+1)/bucketsOfTwo) / 1000
		}
	}
	return 0
}

// effect is how long a change took to become effective, from its acknowledgement.
type effect struct {
	took  time.Duration
	phase phase
}

func (m *mixed) noteEffective(acknowledged time.Time) {
	now := time.Now()
	e := effect{now.Sub(acknowledged), m.phase(acknowledged, now)}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.effective = append(m.effective, e)
}
