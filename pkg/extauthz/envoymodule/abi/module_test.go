//go:build cgo

package abi_test

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	sdk "github.com/envoyproxy/envoy/source/extensions/dynamic_modules/sdk/go"
	"github.com/envoyproxy/envoy/source/extensions/dynamic_modules/sdk/go/shared"
	"go.uber.org/goleak"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz/envoymodule/abi/fakeenvoy"
)

func TestMain(m *testing.M) {
	sdk.RegisterHttpFilterConfigFactories(map[string]shared.HttpFilterConfigFactory{"test": configs{}})
	goleak.VerifyTestMain(m)
}

// configs makes what the running test says.
type configs struct{}

var (
	create func(shared.HttpFilterConfigHandle, []byte) (shared.HttpFilterFactory, error)
	route  func([]byte) (any, error)
)

func (configs) Create(handle shared.HttpFilterConfigHandle, config []byte) (shared.HttpFilterFactory, error) {
	return create(handle, config)
}

func (configs) CreatePerRoute(config []byte) (any, error) { return route(config) }

// factory makes filters of functions.
type factory struct {
	made    func()                                               // in Create; nil: nothing
	check   func(shared.HttpFilterHandle, shared.HeaderMap) bool // whether the request continues
	refuse  func(handle shared.HttpFilterHandle)                 // nil: reply with 503
	refused []string                                             // the panics, by type
	ended   struct{ factory, completed, destroyed atomic.Int32 } // calls
	waiting sync.WaitGroup                                       // goroutines that schedule
	resume  func(shared.HttpFilterHandle)                        // a task of wait
	tasks   atomic.Int32                                         // tasks that ran
}

func (f *factory) Create(handle shared.HttpFilterHandle) shared.HttpFilter {
	if f.made != nil {
		f.made()
	}
	return &filter{factory: f, handle: handle}
}

func (f *factory) OnDestroy() { f.ended.factory.Add(1) }

func (f *factory) Refuse(handle shared.HttpFilterHandle, panicked any) {
	f.refused = append(f.refused, fmt.Sprintf("%T", panicked))
	if f.refuse != nil {
		f.refuse(handle)
		return
	}
	handle.SendLocalResponse(503, nil, []byte("refused"), "")
}

// wait is a check that schedules resume in another goroutine once start is closed.
func (f *factory) wait(start <-chan struct{}) func(shared.HttpFilterHandle, shared.HeaderMap) bool {
	return func(handle shared.HttpFilterHandle, _ shared.HeaderMap) bool {
		scheduler := handle.GetScheduler()
		f.waiting.Go(func() {
			<-start
			scheduler.Schedule(func() {
				f.tasks.Add(1)
				f.resume(handle)
			})
		})
		return false
	}
}

type filter struct {
	shared.EmptyHttpFilter
	factory *factory
	handle  shared.HttpFilterHandle
}

func (f *filter) OnRequestHeaders(headers shared.HeaderMap, _ bool) shared.HeadersStatus {
	if f.factory.check(f.handle, headers) {
		return shared.HeadersStatusContinue
	}
	return shared.HeadersStatusStopAllAndWatermark
}

func (f *filter) OnStreamComplete() { f.factory.ended.completed.Add(1) }
func (f *filter) OnDestroy()        { f.factory.ended.destroyed.Add(1) }

// newConfig makes a configuration of f, in a worker of its own. In the end no scheduler and no error may be left.
func newConfig(t testing.TB, f *factory) (*fakeenvoy.Worker, fakeenvoy.Config) {
	t.Helper()
	w := newWorker(t)
	create = func(shared.HttpFilterConfigHandle, []byte) (shared.HttpFilterFactory, error) { return f, nil }
	config := w.NewConfig("test", "")
	if config == 0 {
		t.Fatal("the configuration was rejected")
	}
	t.Cleanup(func() {
		f.waiting.Wait()
		w.DestroyConfig(config)
		if n := f.ended.factory.Load(); n != 1 {
			t.Errorf("OnDestroy of the factory was called %d times", n)
		}
	})
	return w, config
}

func newWorker(t testing.TB) *fakeenvoy.Worker {
	t.Helper()
	w := fakeenvoy.NewWorker()
	t.Cleanup(func() {
		w.Close()
		awaitDeleted(t)
		for _, line := range fakeenvoy.Journal() {
			if strings.HasPrefix(line, "error: ") {
				t.Error(line)
			}
		}
	})
	return w
}

// awaitDeleted waits until the collector has deleted all schedulers.
func awaitDeleted(t testing.TB) {
	t.Helper()
	for range 1000 {
		if made, _, deleted := fakeenvoy.Schedulers(); made == deleted {
			return
		}
		runtime.GC()
		runtime.Gosched()
	}
	made, _, deleted := fakeenvoy.Schedulers()
	t.Errorf("%d schedulers were made and %d deleted", made, deleted)
}

func equal(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got %s\nwant %s", what, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}
