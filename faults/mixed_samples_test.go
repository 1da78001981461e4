package faults_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/phantomrouter/phantom-authz/bench"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// Series of a sidecar that a mixed load reads, besides those of the tests of faults.
const (
	resolves       = "phantom_authz_resolves_total" // by outcome
	panics         = `phantom_authz_panics_total{server="check"}`
	changesApplied = "phantom_authz_changes_applied_total"
	knownEntries   = `phantom_authz_cache_entries{pool="known"}`
)

// Roles of the processes.
const (
	authzdRole    = "authzd"
	restartedRole = "authzd, restarted"
	envoyRole     = "Envoy"
	keydRole      = "keyd"
)

// usage is what one process uses.
type usage struct {
	pid                     int
	memory                  float64 // resident, MiB
	allocated               float64 // by Envoy's allocator, MiB
	descriptors, goroutines float64 // descriptors: without Envoy's connections of clients and to the upstream, which depend on the load
	changes, entries        float64 // of a sidecar
}

// sample is what the processes use, and what happened since the sample before.
type sample struct {
	at       time.Duration
	used     map[string]usage // by role
	phase    phase            // since the sample before
	p50, p99 float64          // of cached keys, ms; 0: none was requested
	delay    time.Duration    // of the slowest probe of the machine
	requests int64            // so far
	others   float64          // share of the cores that other programs used
}

// sampler takes samples during the load, and checks that the engines stay the same.
type sampler struct {
	m      *mixed
	name   string // of the sidecar, if there is one
	mu     sync.Mutex
	taken  []sample
	logged time.Time
	last   struct {
		at  time.Time
		cpu cpu
	}
}

// cpu is processor time: of all programs, and of this one with those that it has started.
type cpu struct{ all, ours time.Duration }

func newSampler(m *mixed) *sampler {
	s := &sampler{m: m, name: m.sidecars()[0].Name}
	s.last.at, s.last.cpu = time.Now(), s.cpuNow()
	return s
}

// processes returns the running processes by their role.
func (s *sampler) processes() map[string]*testbed.Process {
	all := map[string]*testbed.Process{envoyRole: s.m.proxy.Process, keydRole: s.m.keyd}
	for _, d := range s.m.deciders {
		all[d.role] = d.now()
	}
	return all
}

func (s *sampler) cpuNow() cpu {
	var own syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &own) // it fails only for other arguments
	c := cpu{bench.CPUOfAll(), time.Duration(own.Utime.Nano() + own.Stime.Nano())}
	for _, p := range s.processes() {
		used, _ := testbed.CPU(p.Pid()) // it may have been replaced just now
		c.ours += used
	}
	return c
}

func (s *sampler) take() {
	now := s.measure()
	s.mu.Lock()
	defer s.mu.Unlock()
	from := s.last.at
	s.last.at = time.Now()
	now.at, now.phase, now.delay = s.last.at.Sub(s.m.began), s.m.phase(from, s.last.at), s.m.machine.take()
	window := s.m.results.window.Swap(&durations{})
	now.p50, now.p99 = window.quantile(0.5), window.quantile(0.99)
	now.requests, _ = s.m.results.sums()
	used := s.cpuNow()
	all := (used.all - s.last.cpu.all).Seconds()
	ours := (used.ours - s.last.cpu.ours).Seconds() // negative after a restart
	now.others = max(0, all-max(0, ours)) / (now.at.Seconds() - from.Sub(s.m.began).Seconds()) / cores
	s.last.cpu = used
	s.check(now)
	s.taken = append(s.taken, now)
	if time.Since(s.logged) > time.Minute {
		s.logged = time.Now()
		sum, wrong := s.m.results.sums()
		s.m.t.Logf("%s; %d requests, %d wrong, %d updates; %s", now, sum, wrong, s.m.updates.Load(), &s.m.outages)
	}
}

// check checks that no sidecar has started again, and that the cached keys stay cached.
func (s *sampler) check(now sample) {
	for role, u := range now.used {
		if role == keydRole || role == envoyRole && len(s.m.deciders) > 1 || role == restartedRole {
			continue
		}
		if n := len(s.taken); n > 0 && u.changes < s.taken[n-1].used[role].changes {
			s.m.t.Errorf("%s: %v changes applied after %v: another engine", role, u.changes, s.taken[n-1].used[role].changes)
		}
		if int(u.entries) < len(s.m.kept) {
			s.m.t.Errorf("%s: %v entries in the cache, want at least %d", role, u.entries, len(s.m.kept))
		}
	}
	all, err := s.m.Operators.Sidecars(s.m.t.Context())
	if err != nil {
		s.m.t.Error(err)
	}
	most := len(s.m.deciders)
	if s.m.restarting.Load() {
		most++
	}
	if len(all.Items) > most {
		s.m.t.Errorf("%d sidecars are on record, want at most %d", len(all.Items), most)
	}
	for _, one := range all.Items { // none after an outage that outlasts max_stale
		if len(s.m.deciders) == 1 && one.Name != s.name {
			s.m.t.Errorf("sidecar %s, want %s alone", one.Name, s.name)
		}
	}
}

func (s sample) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "after %v: p50 %.1f ms, p99 %.1f ms, slowest probe %v, other programs %.0f %%", s.at.Round(time.Second), s.p50, s.p99, s.delay.Round(time.Millisecond), 100*s.others)
	for _, role := range roles {
		if u, ok := s.used[role]; ok {
			fmt.Fprintf(&b, "; %s %s", role, u)
		}
	}
	return b.String()
}

func (u usage) String() string {
	return fmt.Sprintf("%.1f MiB, %.0f descriptors, %.0f goroutines, %.0f entries, %.0f changes", u.memory, u.descriptors, u.goroutines, u.entries, u.changes)
}

// measure measures all processes.
func (s *sampler) measure() sample {
	now := sample{used: map[string]usage{}}
	for role, p := range s.processes() {
		u, err := s.measureOne(role, p)
		if p := s.processes()[role]; err != nil && p.Pid() != u.pid {
			u, err = s.measureOne(role, p) // a restart has ended the first one
		}
		if err != nil {
			s.m.t.Errorf("%s: %v", role, err)
		}
		now.used[role] = u
	}
	return now
}

func (s *sampler) measureOne(role string, p *testbed.Process) (usage, error) {
	ctx, u := context.WithoutCancel(s.m.t.Context()), usage{pid: p.Pid()}
	memory, err := testbed.Resident(u.pid)
	files, filesErr := os.ReadDir(fmt.Sprintf("/proc/%d/fd", u.pid))
	if err = errors.Join(err, filesErr); err != nil {
		return u, err
	}
	u.memory, u.descriptors = mib(memory), float64(len(files))
	if role == envoyRole {
		var envoy struct {
			Allocated int64 `json:"allocated,string"`
		}
		text, err := testbed.Get(ctx, s.m.proxy.admin+"/memory")
		if err = errors.Join(err, json.Unmarshal(text, &envoy)); err != nil {
			return u, err
		}
		u.allocated = mib(envoy.Allocated)
		stats, err := testbed.Get(ctx, s.m.proxy.admin+"/stats?filter=^(http.public.downstream_cx_active|cluster.upstream.upstream_cx_active)$")
		if err != nil {
			return u, err
		}
		u.descriptors -= series(stats, "http.public.downstream_cx_active:") + series(stats, "cluster.upstream.upstream_cx_active:")
	}
	if p.Addresses["listen.admin"] == "" { // an Envoy without the module
		return u, nil
	}
	page, err := testbed.Get(ctx, p.Admin()+"/metrics")
	u.goroutines, u.changes, u.entries = series(page, "go_goroutines"), series(page, changesApplied), series(page, knownEntries)
	return u, err
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// series returns the value of a series on a page of metrics or of Envoy's stats, or 0.
func series(page []byte, name string) float64 {
	for line := range bytes.Lines(page) {
		if value, ok := bytes.CutPrefix(line, []byte(name+" ")); ok {
			v, _ := strconv.ParseFloat(string(bytes.TrimSpace(value)), 64)
			return v
		}
	}
	return 0
}

// checkIdle checks that without requests nothing is left of the load but idle connections to the key API, and little memory.
func (m *mixed) checkIdle(before sample) {
	const connections, memory = 100, 8 // a connection has two goroutines; MiB
	m.t.Helper()
	m.proxy.http.CloseIdleConnections()
	m.leaving.http.CloseIdleConnections()
	eventually(m.t, "idle", func() error {
		for role, now := range m.sampler.measure().used {
			then := before.used[role]
			if now.descriptors > then.descriptors+connections || now.goroutines > then.goroutines+2*connections || now.allocated > then.allocated+memory {
				return fmt.Errorf("%s: %s; before the load %s", role, now, then)
			}
		}
		return nil
	})
}
