//go:build cgo

package abi_test

import (
	"testing"

	"github.com/envoyproxy/envoy/source/extensions/dynamic_modules/sdk/go/shared"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz/envoymodule/abi/fakeenvoy"
)

const refused = `reply 503 "refused" ""`

func panics() { panic("a secret") }

// A panic is answered with 503 and nothing that the filter asked for before it.
func TestPanicIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name     string
		made     func()
		check    func(shared.HttpFilterHandle, shared.HeaderMap) bool
		refuse   func(shared.HttpFilterHandle)
		panicked string
		did      []string
	}{
		{name: "Create", made: panics, panicked: "string", did: []string{refused}},
		{name: "OnRequestHeaders", panicked: "string", did: []string{refused}, check: func(handle shared.HttpFilterHandle, headers shared.HeaderMap) bool {
			headers.Set("a", "b")
			handle.IncrementCounterValue(7, 1)
			panic("a secret")
		}},
		{name: "method of the stream that no filter uses", panicked: "runtime.errorString", did: []string{refused}, check: func(handle shared.HttpFilterHandle, _ shared.HeaderMap) bool {
			handle.ClearRouteCache()
			return true
		}},
		{name: "method of the headers that no filter uses", panicked: "runtime.errorString", did: []string{refused}, check: func(_ shared.HttpFilterHandle, headers shared.HeaderMap) bool {
			headers.Add("a", "b")
			return true
		}},
		{name: "metadata that is not a string", panicked: "*runtime.TypeAssertionError", did: []string{refused}, check: func(handle shared.HttpFilterHandle, _ shared.HeaderMap) bool {
			handle.SetMetadata("one", "key", 1)
			return true
		}},
		{name: "Refuse", made: panics, panicked: "string", did: nil, refuse: func(handle shared.HttpFilterHandle) {
			handle.SendLocalResponse(200, nil, []byte("half"), "")
			panic("a secret")
		}},
		{
			name: "metadata in Refuse", panicked: "string", did: []string{`metadata "one" "b" "b"`, refused},
			check: func(handle shared.HttpFilterHandle, _ shared.HeaderMap) bool {
				handle.SetMetadata("one", "a", "a")
				panic("a secret")
			},
			refuse: func(handle shared.HttpFilterHandle) {
				handle.SetMetadata("one", "b", "b")
				handle.SendLocalResponse(503, nil, []byte("refused"), "")
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &factory{refuse: tt.refuse}
			w, config := newConfig(t, f)
			for range 20 { // memory for answers is used again by the next stream in the same of Go's processors
				f.made, f.check, f.refused = tt.made, tt.check, nil
				s := w.NewStream(config, nil, fakeenvoy.Setting{})
				if s.Request() {
					t.Error("continued")
				}
				s.Scheduled()
				s.Complete()
				s.Destroy()
				equal(t, "operations", s.Did, tt.did...)
				equal(t, "panics", f.refused, tt.panicked)

				f.made, f.check = nil, func(shared.HttpFilterHandle, shared.HeaderMap) bool { return true }
				s = w.NewStream(config, nil, fakeenvoy.Setting{})
				if !s.Request() {
					t.Error("the next stream was stopped")
				}
				s.Destroy()
				equal(t, "the next stream's operations", s.Did)
			}
		})
	}
}

// A stream whose check panicked does not continue, also if a goroutine of the filter schedules it later.
func TestPanicOfAStreamThatWaits(t *testing.T) {
	for _, tt := range []struct {
		name   string
		check  bool // the check panics, else the task
		refuse func(shared.HttpFilterHandle)
		did    []string
	}{
		{name: "check", check: true, did: []string{refused}},
		{name: "check and Refuse", check: true, refuse: func(shared.HttpFilterHandle) { panics() }},
		{name: "task", did: []string{refused}},
		{name: "task and Refuse", refuse: func(shared.HttpFilterHandle) { panics() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			start := make(chan struct{})
			f := &factory{refuse: tt.refuse}
			f.resume = func(handle shared.HttpFilterHandle) {
				handle.ContinueRequest()
				if !tt.check {
					panics()
				}
			}
			wait := f.wait(start)
			f.check = func(handle shared.HttpFilterHandle, headers shared.HeaderMap) bool {
				wait(handle, headers)
				if tt.check {
					panics()
				}
				return false
			}
			w, config := newConfig(t, f)
			s := w.NewStream(config, nil, fakeenvoy.Setting{})
			if s.Request() {
				t.Error("continued")
			}
			close(start)
			f.waiting.Wait()
			s.Scheduled()
			s.Scheduled()
			s.Complete()
			s.Destroy()
			equal(t, "operations", s.Did, tt.did...)
			equal(t, "panics", f.refused, "string")
			if c, d := f.ended.completed.Load(), f.ended.destroyed.Load(); c != 1 || d != 1 {
				t.Errorf("OnStreamComplete was called %d times, OnDestroy %d times", c, d)
			}
		})
	}
}

// Without a filter, headers or an object of Go nothing can answer: the stream stays stopped.
func TestStreamStaysStopped(t *testing.T) {
	f := &factory{check: func(shared.HttpFilterHandle, shared.HeaderMap) bool { return true }}
	w, good := newConfig(t, f)
	route = func([]byte) (any, error) { return "requirement", nil }
	r := w.NewRoute("test", "")
	defer w.DestroyRoute(r)
	for _, tt := range []struct {
		name    string
		config  fakeenvoy.Config
		setting fakeenvoy.Setting
	}{
		{"no configuration", 0, fakeenvoy.Setting{}},
		{"invalid configuration", good + 1000, fakeenvoy.Setting{}},
		{"route in place of a configuration", r, fakeenvoy.Setting{}},
		{"no memory for the stream", good, fakeenvoy.Setting{WithoutModule: true}},
		{"no headers", good, fakeenvoy.Setting{RefusesHeaders: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := w.NewStream(tt.config, [][2]string{{"a", "b"}}, tt.setting)
			if s.Request() {
				t.Error("continued")
			}
			s.Scheduled()
			s.Complete()
			s.Destroy()
			equal(t, "operations", s.Did)
		})
	}
}

func TestInvalidRouteIsRefused(t *testing.T) {
	f := &factory{check: func(handle shared.HttpFilterHandle, _ shared.HeaderMap) bool {
		handle.GetMostSpecificConfig()
		return true
	}}
	w, config := newConfig(t, f)
	s := w.NewStream(config, nil, fakeenvoy.Setting{Route: config + 1000})
	if s.Request() {
		t.Error("continued")
	}
	s.Destroy()
	equal(t, "operations", s.Did, refused)
}
