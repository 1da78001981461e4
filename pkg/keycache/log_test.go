package keycache

import (
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// observed has the cache log into memory.
func observed(level zapcore.Level, logs **observer.ObservedLogs) func(*Options) {
	return func(o *Options) {
		core, list := observer.New(level)
		o.Log, *logs = zap.New(core), list
	}
}

// value reads a gauge or counter with the label values, in the order of the labels' names.
func value(t *testing.T, registry *prometheus.Registry, name string, labels ...string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var got []string
			for _, l := range m.GetLabel() {
				got = append(got, l.GetValue())
			}
			if family.GetName() == name && slices.Equal(got, labels) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	t.Errorf("no metric %s%v", name, labels)
	return 0
}

// canLock reports whether a lock is free, or becomes free while its holder runs.
func canLock(mu *sync.Mutex) bool {
	for range 100_000 {
		if mu.TryLock() {
			mu.Unlock()
			return true
		}
		runtime.Gosched()
	}
	return false
}

// Checks do not wait for the log writer: no lock is held while a line is written.
func TestNoLockIsHeldWhileLogging(t *testing.T) {
	messages := make(map[string]int)
	var c *Cache
	written := func(e zapcore.Entry) {
		messages[e.Message]++
		if !canLock(&c.mu) {
			t.Errorf("Cache.mu is held while %q is logged", e.Message)
		}
		for i := range c.pools {
			if !canLock(&c.pools[i].mu) {
				t.Errorf("a shard's lock is held while %q is logged", e.Message)
			}
		}
	}
	bubble(t, func(o *Options) {
		unlimited(o)
		core, _ := observer.New(zap.DebugLevel)
		o.ChangesOptional, o.Log = true, zap.New(core, zap.Hooks(func(e zapcore.Entry) error { written(e); return nil }))
	}, func(f *fixture) {
		c = f.Cache
		f.api.pollErr = sidecarapi.ErrNotOffered
		f.start()
		f.api.reconnect()
		advance(2 * ttlPollInterval)
		f.warm()
		f.api.disconnect()
		advance(3 * time.Second)
		for _, name := range names("unknown", maxFailures) {
			f.lookup(name)
		}
		f.api.reconnect()
		advance(3 * time.Second)
		f.api.set(func() { f.api.editResolved = unusableResults })
		f.lookup("another")
		f.api.set(func() { f.api.editResolved = nil })
		f.api.replace("two", 0)
		f.api.takeName(f.Name())
		advance(6 * time.Second)
		f.api.replace("three", 0)
		advance(6 * time.Second)
		f.api.set(func() { f.api.pollErr = errUnreachable })
		f.stop()
		f.Close()
	})
	if len(messages) != 11 {
		t.Errorf("%d messages were logged, want all 11: %v", len(messages), messages)
	}
}

// A clean start and stop log no warning, with any poll in flight.
func TestCleanStopLogsNoWarning(t *testing.T) {
	for name, poll := range map[string]time.Duration{"long poll": 0, "slow poll": 300 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			var logs *observer.ObservedLogs
			bubble(t, observed(zap.WarnLevel, &logs), func(f *fixture) {
				f.api.pollDelay = poll
				f.start()
				advance(2 * time.Second)
				f.warm()
				advance(poll / 2)
				f.stop()
				f.Close()
				for _, entry := range logs.All() {
					t.Errorf("logged %s %v", entry.Message, entry.ContextMap())
				}
			})
		})
	}
}

// An outage of the change log is logged when it begins and when it ends.
func TestChangeLogOutageIsLoggedTwice(t *testing.T) {
	for name, err := range map[string]error{"unreachable": errUnreachable, "404": sidecarapi.ErrNotOffered} {
		t.Run(name, func(t *testing.T) {
			var logs *observer.ObservedLogs
			bubble(t, observed(zap.InfoLevel, &logs), func(f *fixture) {
				f.start()
				advance(time.Second)
				logs.TakeAll()
				f.api.set(func() { f.api.pollErr = err })
				advance(time.Hour)
				f.api.reconnect()
				advance(3 * time.Second)
				lines := logs.TakeAll()
				if len(lines) != 3 { // the last one says from where the log is followed
					t.Fatalf("%d lines: %v", len(lines), lines)
				}
				begin, end := lines[0], lines[1]
				if begin.Level != zap.WarnLevel || begin.Message != "change log cannot be followed" {
					t.Errorf("%+v", begin)
				}
				if text := begin.ContextMap()["error"].(string); name == "404" && !strings.Contains(text, "key_api.changes") {
					t.Errorf("the error does not name key_api.changes: %s", text)
				}
				after, _ := end.ContextMap()["after"].(time.Duration)
				if end.Level != zap.InfoLevel || after < 59*time.Minute || after > 61*time.Minute {
					t.Errorf("%+v", end)
				}
			})
		})
	}
}

// The gauge is 1 while resolves or polls fail.
func TestKeyAPIDownGauge(t *testing.T) {
	for name, tt := range map[string]struct {
		fault          func(*fakeAPI)
		resolves, poll float64
	}{
		"nothing fails": {func(*fakeAPI) {}, 0, 0},
		"resolves fail": {func(a *fakeAPI) { a.resolveErr = errUnreachable }, 1, 0},
		"polls fail":    {func(a *fakeAPI) { a.pollErr = errUnreachable }, 0, 1},
		"polls are 404": {func(a *fakeAPI) { a.pollErr = sidecarapi.ErrNotOffered }, 0, 1},
		"both fail":     {func(a *fakeAPI) { a.resolveErr, a.pollErr = errUnreachable, errUnreachable }, 1, 1},
		"polls are 409": {func(a *fakeAPI) { a.pollErr = sidecarapi.ErrConflict }, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			registry := prometheus.NewRegistry()
			bubble(t, func(o *Options) { unlimited(o); o.Metrics = registry }, func(f *fixture) {
				wantDown := func(resolves, polls float64) {
					t.Helper()
					for by, want := range map[string]float64{"resolve": resolves, "poll": polls} {
						if got := value(t, registry, "phantom_authz_key_api_down", by); got != want {
							t.Errorf("phantom_authz_key_api_down by %s is %v, want %v", by, got, want)
						}
					}
				}
				f.start()
				wantDown(0, 0)
				f.api.set(func() { tt.fault(f.api) })
				for _, name := range names("n", maxFailures) {
					f.lookup(name)
				}
				advance(3 * time.Second)
				wantDown(tt.resolves, tt.poll)
				f.api.reconnect()
				advance(3 * time.Second)
				wantDown(0, 0)
			})
		})
	}
	// In time-to-live mode a key API without a change log is not down.
	bubble(t, changesOptional, func(f *fixture) {
		f.api.pollErr = sidecarapi.ErrNotOffered
		f.start()
		advance(time.Hour)
		synctest.Wait()
		if f.pollsFailing.Load() {
			t.Error("polls count as failing")
		}
	})
}
