package keycache

import (
	"strings"
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

// value reads a gauge or counter without labels.
func value(t *testing.T, registry *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			m := family.GetMetric()[0]
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	t.Errorf("no metric %s", name)
	return 0
}

// blocked is a log writer that blocks until it is closed.
type blocked chan struct{}

func (b blocked) Write(p []byte) (int, error) { <-b; return len(p), nil }
func (b blocked) Sync() error                 { return nil }

// A log writer that blocks delays neither checks nor polls, nor the stop for long.
func TestBlockedLogWriter(t *testing.T) {
	var writer blocked
	registry := prometheus.NewRegistry()
	bubble(t, func(o *Options) {
		plenty(o)
		o.Metrics = registry
		writer = make(blocked)
		o.Log = zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), writer, zap.DebugLevel))
	}, func(f *fixture) {
		defer close(writer)
		f.follow()
		f.warm()
		for range 300 { // every kind of line
			f.api.cut()
			pass(3 * time.Second)
			f.together(names("unknown", 5))
			f.api.mend()
			f.api.set(func() { f.api.tamper = nothing })
			f.ask("another")
			f.api.set(func() { f.api.tamper = nil })
			pass(3 * time.Second)
			f.api.replace(f.api.epoch+"x", 0)
			f.api.takeName(f.Name())
			pass(6 * time.Second)
			f.wantMode(synced)
			for i, name := range all[:3] {
				f.wantFromMemory(name, facts[i])
			}
			if t.Failed() {
				return // a cache that is blocked stays so
			}
		}
		if n := value(t, registry, "phantom_authz_cache_log_lines_dropped_total"); n == 0 {
			t.Error("no dropped line is counted")
		}
		f.api.set(func() { f.api.deaf = errUnreachable })
		began := time.Now()
		f.stop()
		f.Close()
		if took := time.Since(began); took > deregisterWait+flushWait {
			t.Errorf("the stop took %s", took)
		}
	})
}

// The lines are written in order, and none is lost by a stop.
func TestLinesAreWrittenInOrder(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	j := &journal{log: zap.New(core), dropped: prometheus.NewCounter(prometheus.CounterOpts{Name: "x"})}
	for i := range maxPendingLines {
		j.info("line", zap.Int("n", i))
	}
	j.close()
	for i, entry := range logs.All() {
		if entry.ContextMap()["n"] != int64(i) {
			t.Fatalf("line %d is %v", i, entry)
		}
	}
	if logs.Len() != maxPendingLines {
		t.Errorf("%d lines", logs.Len())
	}
}

// A clean start and stop log no warning, with any poll in flight.
func TestCleanStopLogsNoWarning(t *testing.T) {
	for name, poll := range map[string]time.Duration{"while a poll waits": 0, "while a poll is on its way": 300 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			var logs *observer.ObservedLogs
			bubble(t, observed(zap.WarnLevel, &logs), func(f *fixture) {
				f.api.poll = poll
				f.follow()
				pass(2 * time.Second)
				f.warm()
				pass(poll / 2)
				f.stop()
				f.Close()
				for _, entry := range logs.All() {
					t.Errorf("logged %s %v", entry.Message, entry.ContextMap())
				}
			})
		})
	}
}

// An outage of the change log has two lines: when it begins, and when it ends, with how long it
// took.
func TestOutageOfTheChangeLogIsLoggedTwice(t *testing.T) {
	for name, err := range map[string]error{"unreachable": errUnreachable, "404": sidecarapi.ErrNotOffered} {
		t.Run(name, func(t *testing.T) {
			var logs *observer.ObservedLogs
			bubble(t, observed(zap.InfoLevel, &logs), func(f *fixture) {
				f.follow()
				pass(time.Second)
				logs.TakeAll()
				f.api.set(func() { f.api.deaf = err })
				pass(time.Hour)
				f.api.mend()
				pass(3 * time.Second)
				lines := logs.TakeAll()
				if len(lines) != 3 { // the last one: it follows from another head
					t.Fatalf("%d lines: %v", len(lines), lines)
				}
				begin, end := lines[0], lines[1]
				if begin.Level != zap.WarnLevel || begin.Message != "change log cannot be followed" {
					t.Errorf("%+v", begin)
				}
				if text := begin.ContextMap()["error"].(string); name == "404" && !strings.Contains(text, "key_api.changes") {
					t.Errorf("the error names no option: %s", text)
				}
				after, _ := end.ContextMap()["after"].(time.Duration)
				if end.Level != zap.InfoLevel || after < 59*time.Minute || after > 61*time.Minute {
					t.Errorf("%+v", end)
				}
			})
		})
	}
}

// The gauge is 1 while resolves fail, or polls, or both.
func TestKeyAPIDown(t *testing.T) {
	for name, tt := range map[string]struct {
		fault func(*fakeAPI)
		want  float64
	}{
		"nothing fails": {func(*fakeAPI) {}, 0},
		"resolves fail": {func(a *fakeAPI) { a.down = errUnreachable }, 1},
		"polls fail":    {func(a *fakeAPI) { a.deaf = errUnreachable }, 1},
		"polls are 404": {func(a *fakeAPI) { a.deaf = sidecarapi.ErrNotOffered }, 1},
		"both fail":     {func(a *fakeAPI) { a.down, a.deaf = errUnreachable, errUnreachable }, 1},
		"polls are 409": {func(a *fakeAPI) { a.deaf = sidecarapi.ErrConflict }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			registry := prometheus.NewRegistry()
			bubble(t, func(o *Options) { plenty(o); o.Metrics = registry }, func(f *fixture) {
				down := func(want float64) {
					t.Helper()
					if got := value(t, registry, "phantom_authz_key_api_down"); got != want {
						t.Errorf("phantom_authz_key_api_down is %v, want %v", got, want)
					}
				}
				f.follow()
				down(0)
				f.api.set(func() { tt.fault(f.api) })
				for _, name := range names("n", tripAfter) {
					f.ask(name)
				}
				pass(3 * time.Second)
				down(tt.want)
				f.api.mend()
				pass(3 * time.Second)
				down(0)
			})
		})
	}
	// In time-to-live mode a key API without a change log is not down.
	bubble(t, optional, func(f *fixture) {
		f.api.deaf = sidecarapi.ErrNotOffered
		f.follow()
		pass(time.Hour)
		synctest.Wait()
		if f.pollsFail.Load() {
			t.Error("polls count as failing")
		}
	})
}
