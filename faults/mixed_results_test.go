package faults_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// results are the answers of a load by its kinds of requests.
type results struct {
	kinds map[string]*tally
}

// tally counts the answers to one kind of requests.
type tally struct {
	allowed, denied, unavailable, limited, unanswered, wrong atomic.Int64
	took                                                     durations
}

func (c *tally) count(got testbed.Answer, err error, took time.Duration) {
	c.took.add(took)
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
func (r results) sums() (sum, wrong int64) {
	for _, c := range r.kinds {
		sum, wrong = sum+c.sum(), wrong+c.wrong.Load()
	}
	return sum, wrong
}

// log logs a table.
func (r results) log(t *testing.T, took time.Duration) {
	t.Helper()
	var b strings.Builder
	b.WriteString("\n| requests | number | allowed | denied | 503 | 429 | no answer | wrong | p50 ms | p99 ms |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for _, k := range kinds {
		c := r.kinds[k.name]
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d | %d | %d | %d | %.1f | %.1f |\n", k.name, c.sum(), c.allowed.Load(), c.denied.Load(), c.unavailable.Load(),
			c.limited.Load(), c.unanswered.Load(), c.wrong.Load(), c.took.quantile(0.5), c.took.quantile(0.99))
	}
	sum, wrong := r.sums()
	t.Logf("%s\n%d requests in %v: %.0f per second, %d wrong", &b, sum, took.Round(time.Second), float64(sum)/took.Seconds(), wrong)
}

// durations is a histogram with buckets that are 9 % wide.
type durations struct{ buckets [256]atomic.Int64 }

const bucketsOfTwo = 8 // for each power of two of microseconds

func (d *durations) add(took time.Duration) {
	i := int(bucketsOfTwo * math.Log2(max(1, float64(took.Microseconds()))))
	d.buckets[min(i, len(d.buckets)-1)].Add(1)
}

// quantile returns the upper bound of a quantile, in milliseconds.
func (d *durations) quantile(q float64) float64 {
	total := int64(0)
	for i := range d.buckets {
		total += d.buckets[i].Load()
	}
	seen := int64(0)
	for i := range d.buckets {
		if seen += d.buckets[i].Load(); float64(seen) >= q*float64(total) {
			return math.Exp2(float64(i+1)/bucketsOfTwo) / 1000
		}
	}
	return math.Inf(1)
}

// sample is what the Envoy process uses.
type sample struct {
	at                       time.Duration
	memory                   int64 // of the process
	allocated                int64 // by Envoy's allocator
	descriptors, goroutines  int
	changes, entries, heapGo float64
}

// sampler takes samples during the load, and checks that the engine stays the same.
type sampler struct {
	m     *mixed
	began time.Time
	name  string // of the sidecar
	mu    sync.Mutex
	taken []sample
	last  time.Time // logged
}

func newSampler(m *mixed) *sampler {
	return &sampler{m: m, began: time.Now(), name: m.sidecars()[0].Name}
}

func (s *sampler) take() {
	now := s.m.measure()
	now.at = time.Since(s.began)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.taken); n > 0 && now.changes < s.taken[n-1].changes {
		s.m.t.Errorf("%v changes applied after %v: another engine", now.changes, s.taken[n-1].changes)
	}
	if int(now.entries) < len(s.m.kept) {
		s.m.t.Errorf("%v entries in the cache, want at least %d", now.entries, len(s.m.kept))
	}
	all, err := s.m.Operators.Sidecars(s.m.t.Context())
	for _, one := range all.Items { // none after an outage that outlasts max_stale
		if one.Name != s.name {
			s.m.t.Errorf("sidecar %s, want %s alone", one.Name, s.name)
		}
	}
	if err != nil {
		s.m.t.Error(err)
	}
	s.taken = append(s.taken, now)
	if time.Since(s.last) > time.Minute {
		s.last = time.Now()
		sum, wrong := s.m.results.sums()
		s.m.t.Logf("%s; %d requests, %d wrong, %d updates; %s", now, sum, wrong, s.m.updates.Load(), &s.m.outages)
	}
}

func (s sample) String() string {
	return fmt.Sprintf("after %v: %.1f MiB, allocated by Envoy %.1f MiB, heap of Go %.1f MiB, %d descriptors, %d goroutines, %v entries, %v changes applied", s.at.Round(time.Second),
		float64(s.memory)/(1<<20), float64(s.allocated)/(1<<20), s.heapGo/(1<<20), s.descriptors, s.goroutines, s.entries, s.changes)
}

// measure takes one sample.
func (m *mixed) measure() sample {
	metric := func(series string) float64 {
		v, err := m.proxy.Metric(m.t.Context(), series)
		if err != nil {
			m.t.Error(err)
		}
		return v
	}
	memory, err := testbed.Resident(m.proxy.Pid())
	if err != nil {
		m.t.Error(err)
	}
	var envoy struct {
		Allocated int64 `json:"allocated,string"`
	}
	text, err := testbed.Get(m.t.Context(), m.proxy.admin+"/memory")
	if err = errors.Join(err, json.Unmarshal(text, &envoy)); err != nil {
		m.t.Error(err)
	}
	return sample{
		memory: memory, allocated: envoy.Allocated, descriptors: int(metric("process_open_fds")), goroutines: int(metric("go_goroutines")),
		changes: metric("phantom_authz_changes_applied_total"), entries: metric(`phantom_authz_cache_entries{pool="known"}`),
		heapGo: metric("go_memstats_heap_inuse_bytes"),
	}
}

// check logs the samples and, if the load lasted long enough for it, checks that the memory is flat: its median in the last fifth
// of the time is at most memoryGrowth above that of the fifth after mixedPace.settled.
func (s *sampler) check(longEnough bool) {
	const memoryGrowth = 1.1
	s.m.t.Helper()
	var early, late []int64
	total := s.taken[len(s.taken)-1].at
	for _, one := range s.taken {
		if one.at >= mixedPace.settled && one.at < mixedPace.settled+total/5 {
			early = append(early, one.memory)
		}
		if one.at > total-total/5 {
			late = append(late, one.memory)
		}
	}
	s.m.t.Logf("last sample %s", s.taken[len(s.taken)-1])
	if len(early) == 0 || len(late) == 0 {
		return
	}
	before, after := median(early), median(late)
	s.m.t.Logf("memory: median %.1f MiB after it settled, %.1f MiB at the end; most %.1f MiB", float64(before)/(1<<20), float64(after)/(1<<20),
		float64(slices.MaxFunc(s.taken, func(a, b sample) int { return int(a.memory - b.memory) }).memory)/(1<<20))
	if longEnough && float64(after) > memoryGrowth*float64(before) {
		s.m.t.Errorf("memory grew from %d to %d MiB", before>>20, after>>20)
	}
}

func median(of []int64) int64 {
	slices.Sort(of)
	return of[len(of)/2]
}

// checkIdle checks that without requests nothing is left of the load but idle connections to the key API, and little memory.
func (m *mixed) checkIdle(before sample) {
	const connections, memory = 100, 8 << 20 // a connection has two goroutines
	m.t.Helper()
	m.proxy.http.CloseIdleConnections()
	m.leaving.http.CloseIdleConnections()
	eventually(m.t, "idle", func() error {
		now := m.measure()
		if now.descriptors > before.descriptors+connections || now.goroutines > before.goroutines+2*connections || now.allocated > before.allocated+memory {
			return fmt.Errorf("%s; before the load %s", now, before)
		}
		return nil
	})
	m.t.Logf("idle again: %s; before the load %s", m.measure(), before)
}
