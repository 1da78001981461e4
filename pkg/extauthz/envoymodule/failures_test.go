package envoymodule

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/envoyproxy/envoy/source/extensions/dynamic_modules/sdk/go/shared"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// points are where a check can panic: what it calls, and in which cases.
var points = []struct {
	method string
	source bool // of the engine; else of Envoy
	onlyIn string
	// answered reports whether the client gets a 503. Otherwise the stream stays stopped.
	unanswered bool
	// before reports that the headers cannot be read or changed, so that shadow mode cannot let it pass.
	before bool
}{
	{method: "GetAll", before: true},
	{method: "GetMostSpecificConfig", before: true},
	{method: "Cached", source: true},
	{method: "Used", source: true},
	{method: "SetMetadataString"},
	{method: "AddMetadataListString"},
	{method: "IncrementCounterValue"},
	{method: "Set"},
	{method: "Remove"},
	{method: "GetScheduler", onlyIn: "miss"},
	{method: "Lookup", source: true, onlyIn: "miss"},
	{method: "Schedule", onlyIn: "miss", unanswered: true},
	{method: "RequestHeaders", onlyIn: "miss", before: true},
	{method: "ContinueRequest", onlyIn: "miss", unanswered: true},
}

// A panic anywhere is counted and never lets a request pass, except in shadow mode.
func TestPanicIsAnsweredAsUnavailable(t *testing.T) {
	eachMode(t, func(t *testing.T, misses, shadow bool) {
		for _, p := range points {
			if p.onlyIn == "miss" && !misses {
				continue
			}
			for _, times := range []int{1, -1} { // a panic each time hits the answer to the panic too
				t.Run(fmt.Sprintf("%s %d", p.method, times), func(t *testing.T) {
					e := newEngine(t)
					e.misses, e.rules.Shadow = misses, shadow
					f := e.factory(t)
					s := newStream(t, to("/me", bearer(chatKey), "x-phantom-new: evil")...)
					if p.source {
						e.panics[p.method] = true
					} else {
						s.panics[p.method] = times
					}
					synctest.Test(t, func(t *testing.T) {
						s.t, s.tasks = t, make(chan func(), 1)
						s.request(f)
						synctest.Wait()
						select {
						case task := <-s.tasks:
							s.callback(task)
						default:
						}
						s.complete()
					})
					mayPass := shadow && !p.before && !p.unanswered
					checkPanicked(t, e, s, mayPass, p.unanswered)
					if once := times == 1 || p.source; mayPass && once && !s.passed() {
						t.Error("shadow mode denied it")
					}
					if n := f.waiting.Load(); n != 0 {
						t.Errorf("%d streams still wait", n)
					}
				})
			}
		}
	})
}

func checkPanicked(t *testing.T, e *engine, s *stream, mayPass, unanswered bool) {
	t.Helper()
	switch {
	case s.passed():
		if !mayPass {
			t.Error("passed")
		}
		checkPassed(t, s, true)
		if got := s.headers.all(); got["x-phantom-new"] != nil || got["x-phantom-account-id"] != nil {
			t.Errorf("reserved headers at the upstream: %q", got)
		}
	case unanswered:
		if s.denied() != 0 {
			t.Errorf("the status %d", s.denied())
		}
	case s.denied() != 503 || !strings.Contains(s.replies[0].body, "SERVICE_UNAVAILABLE"):
		t.Errorf("the answer %d %v", s.denied(), s.replies)
	}
	if e.panicCount(t) == 0 {
		t.Error("not counted")
	}
	for _, line := range e.log.All() {
		if text := fmt.Sprint(line.Message, line.ContextMap()); strings.Contains(text, "a secret") || !strings.Contains(text, "envoymodule.") {
			t.Errorf("the log line %s", text)
		}
	}
	if e.log.Len() == 0 {
		t.Error("not logged")
	}
}

// The local reply cannot be repeated: it may have had an effect.
func TestPanicOfTheReplyLeavesTheStreamStopped(t *testing.T) {
	eachMode(t, func(t *testing.T, misses, _ bool) {
		e := newEngine(t)
		e.misses = misses
		s := newStream(t, to("/me", bearer(unknownKey))...)
		s.panics["SendLocalResponse"] = -1
		s.request(e.factory(t))
		finish(s)
		if s.passed() || len(s.replies) > 0 || e.panicCount(t) != 1 {
			t.Errorf("passed %t, answers %v, panics %d", s.passed(), s.replies, e.panicCount(t))
		}
	})
}

func TestRouteOfAnotherTypeIsUnavailable(t *testing.T) {
	for _, shadow := range []bool{false, true} {
		for _, config := range []any{"x", 1, (*route)(nil), extauthz.RouteRequirement{}} {
			e := newEngine(t)
			e.rules.Shadow = shadow
			s := settled(t, e.factory(t), config, to("/me", bearer(plainKey))...)
			if s.denied() != 503 || e.panicCount(t) != 1 {
				t.Errorf("%T: the status %d, %d panics", config, s.denied(), e.panicCount(t))
			}
		}
	}
}

func TestLogLinesOfPanicsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.panics["Cached"] = true
		f := e.factory(t)
		for range 100 {
			settled(t, f, nil, to("/me", bearer(plainKey))...)
		}
		if e.panicCount(t) != 100 || e.log.Len() != linesFirst {
			t.Errorf("%d panics, %d lines", e.panicCount(t), e.log.Len())
		}
	})
}

// misuse calls every function of the filter with arguments that make it panic if it uses them. The
// keys are the methods of the SDK's interfaces, so that a new one fails this test.
var misuse = map[reflect.Type]map[string]func(e *engine, f *factory, x *filter){
	reflect.TypeFor[shared.HttpFilter](): {
		"OnRequestHeaders":   func(_ *engine, _ *factory, x *filter) { x.OnRequestHeaders(nil, false) },
		"OnRequestBody":      func(_ *engine, _ *factory, x *filter) { x.OnRequestBody(nil, false) },
		"OnRequestTrailers":  func(_ *engine, _ *factory, x *filter) { x.OnRequestTrailers(nil) },
		"OnResponseHeaders":  func(_ *engine, _ *factory, x *filter) { x.OnResponseHeaders(nil, false) },
		"OnResponseBody":     func(_ *engine, _ *factory, x *filter) { x.OnResponseBody(nil, false) },
		"OnResponseTrailers": func(_ *engine, _ *factory, x *filter) { x.OnResponseTrailers(nil) },
		"OnStreamComplete": func(_ *engine, _ *factory, x *filter) {
			x.cancel = func() { panic("cancel") }
			x.OnStreamComplete()
		},
		"OnDestroy": func(_ *engine, _ *factory, x *filter) {
			x.cancel = func() { panic("cancel") }
			x.OnDestroy()
		},
	},
	reflect.TypeFor[shared.HttpFilterFactory](): {
		"Create": func(_ *engine, f *factory, _ *filter) {
			if f.Create(nil) == nil {
				panic("no filter: the SDK would let the request pass")
			}
		},
		"OnDestroy": func(_ *engine, f *factory, _ *filter) {
			f.Release = func() { panic("Release") }
			f.OnDestroy()
		},
	},
	reflect.TypeFor[shared.HttpFilterConfigFactory](): {
		"Create": func(e *engine, _ *factory, _ *filter) {
			if f, err := e.module.Create(nil, nil); f != nil || err == nil {
				panic("a factory without Envoy")
			}
		},
		"CreatePerRoute": func(*engine, *factory, *filter) {
			if config, err := (Module{}).CreatePerRoute(nil); config != nil || err == nil {
				panic("a route without a function")
			}
		},
	},
}

func TestEveryEntryRecovers(t *testing.T) {
	for kind, calls := range misuse {
		for i := range kind.NumMethod() {
			name := kind.Method(i).Name
			call := calls[name]
			if call == nil {
				t.Errorf("%s.%s is not tested", kind.Name(), name)
				continue
			}
			t.Run(kind.Name()+"."+name, func(t *testing.T) {
				e := newEngine(t)
				f := e.factory(t)
				s := newStream(t)
				s.inside = true
				x := f.Create(s).(*filter)
				defer func() {
					if value := recover(); value != nil {
						t.Errorf("a panic reached Envoy: %v", value)
					}
				}()
				call(e, f, x)
			})
		}
	}
}

func TestConfigurationThatCannotBeLoadedIsRejected(t *testing.T) {
	mistake := errors.New("filter_config: missing field key_api")
	for _, tt := range []struct {
		name     string
		change   func(e *engine)
		want     string
		released int
	}{
		{"mistake", func(e *engine) { e.module.Open = func([]byte) (*Engine, error) { return nil, mistake } }, mistake.Error(), 0},
		{"panic", func(e *engine) { e.module.Open = func([]byte) (*Engine, error) { panic("a secret") } }, "panic: string", 0},
		{"runtime error", func(e *engine) { e.module.Open = nil }, "panic: runtime error: invalid memory address or nil pointer dereference", 0},
		{"no engine", func(e *engine) { e.module.Open = func([]byte) (*Engine, error) { return nil, nil } }, "panic: runtime error: invalid memory address or nil pointer dereference", 0}, //nolint:nilnil // the mistake to test
		{"counters", func(e *engine) { e.config.result = shared.MetricsFrozen }, errCounters.Error(), 1},
		{"panic of counters", func(e *engine) { e.config.panics = true }, "panic: string", 1},
		{"panic of Release", func(e *engine) {
			e.config.panics = true
			open := e.module.Open
			e.module.Open = func(c []byte) (*Engine, error) {
				made, err := open(c)
				made.Release = func() { e.released++; panic("a secret") }
				return made, err
			}
		}, "panic: string", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := newEngine(t)
			tt.change(e)
			f, err := e.module.Create(&e.config, []byte("{}"))
			if f != nil || err == nil || err.Error() != tt.want {
				t.Errorf("factory %v, error %v, want %s", f, err, tt.want)
			}
			if e.released != tt.released {
				t.Errorf("released %d times, want %d", e.released, tt.released)
			}
		})
	}
}

func TestRouteThatCannotBeLoadedIsRejected(t *testing.T) {
	for name, m := range map[string]Module{
		"mistake": {Route: func([]byte) (extauthz.RouteRequirement, error) { return extauthz.RouteRequirement{}, errors.New("x") }},
		"panic":   {Route: func([]byte) (extauthz.RouteRequirement, error) { panic("a secret") }},
		"none":    {},
	} {
		if config, err := m.CreatePerRoute([]byte("{}")); config != nil || err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, %v", name, config, err)
		}
	}
}

func TestEngineIsReleasedOnce(t *testing.T) {
	e := newEngine(t)
	f := e.factory(t)
	if e.released != 0 {
		t.Error("released while it is in use")
	}
	f.OnDestroy()
	if e.released != 1 {
		t.Errorf("released %d times", e.released)
	}
}

func TestFactoryIsRegisteredByItsName(t *testing.T) {
	all := newEngine(t).module.Factories()
	if len(all) != 1 || all["phantom_authz"] == nil {
		t.Errorf("%v", all)
	}
}
