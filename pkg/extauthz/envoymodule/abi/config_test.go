//go:build cgo

package abi_test

import (
	"errors"
	"testing"

	"github.com/envoyproxy/envoy/source/extensions/dynamic_modules/sdk/go/shared"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz/envoymodule/abi/fakeenvoy"
)

// careless is a factory without Refuse.
type careless struct {
	shared.EmptyHttpFilterFactory
	destroyed *int
}

func (c *careless) OnDestroy() { *c.destroyed++ }

func TestConfigurationIsRejected(t *testing.T) {
	destroyed := 0
	for _, tt := range []struct {
		name    string
		factory string
		create  func() (shared.HttpFilterFactory, error)
		log     string
	}{
		{"error", "test", func() (shared.HttpFilterFactory, error) { return nil, errors.New("one\ntwo\nthree") }, "one\ntwo\nthree"},
		{"error with a factory", "test", func() (shared.HttpFilterFactory, error) { return &factory{}, errors.New("one") }, "one"},
		{"panic", "test", func() (shared.HttpFilterFactory, error) { panic("a secret") }, "panic: string"},
		{"nil", "test", func() (shared.HttpFilterFactory, error) { return nil, nil }, "the factory is nil"},
		{"without Refuse", "test", func() (shared.HttpFilterFactory, error) { return &careless{destroyed: &destroyed}, nil }, "the factory has no method Refuse"},
		{"unknown name", "other", nil, "failed to get plugin config factory"},
		{"empty name", "", nil, "failed to get plugin config factory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorker(t)
			create = func(shared.HttpFilterConfigHandle, []byte) (shared.HttpFilterFactory, error) { return tt.create() }
			if config := w.NewConfig(tt.factory, "{}"); config != 0 {
				t.Error("it was accepted")
			}
			equal(t, "log", fakeenvoy.Journal(), "warning: Failed to load configuration: "+tt.log)
		})
	}
	if destroyed != 1 {
		t.Errorf("the factory without Refuse was destroyed %d times", destroyed)
	}
}

func TestConfigurationIsPassedOn(t *testing.T) {
	f := &factory{}
	w := newWorker(t)
	var id shared.MetricID
	create = func(handle shared.HttpFilterConfigHandle, config []byte) (shared.HttpFilterFactory, error) {
		if string(config) != "a\x00\xff" {
			t.Errorf("the configuration %q", config)
		}
		var result shared.MetricsResult
		if id, result = handle.DefineCounter("checks"); result != shared.MetricsSuccess || id < 100 {
			t.Errorf("counter %d, %d", id, result)
		}
		if _, result := handle.DefineCounter(""); result == shared.MetricsSuccess {
			t.Error("Envoy's refusal of a counter was not returned")
		}
		if _, result := handle.DefineCounter("tagged", "tag"); result == shared.MetricsSuccess {
			t.Error("a tag was accepted")
		}
		return f, nil
	}
	config := w.NewConfig("test", "a\x00\xff")
	equal(t, "journal", fakeenvoy.Journal(), "counter checks", "counter ")
	w.DestroyConfig(config)
	w.DestroyConfig(config) // its handle is invalid now
	w.DestroyConfig(0)
	if n := f.ended.factory.Load(); config == 0 || n != 1 {
		t.Errorf("the configuration %d was destroyed %d times", config, n)
	}
}

func TestRoutes(t *testing.T) {
	for _, tt := range []struct {
		name    string
		factory string
		route   func([]byte) (any, error)
		log     []string
	}{
		{"good", "test", func(config []byte) (any, error) { return string(config), nil }, nil},
		{"error", "test", func([]byte) (any, error) { return "not used", errors.New("one\ntwo") }, []string{"one\ntwo"}},
		{"panic", "test", func([]byte) (any, error) { panic("a secret") }, []string{"panic: string"}},
		{"nil", "test", func([]byte) (any, error) { return nil, nil }, []string{"the factory is nil"}},
		{"unknown name", "other", nil, []string{"no factory for other"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			route = tt.route
			var got any
			f := &factory{check: func(handle shared.HttpFilterHandle, _ shared.HeaderMap) bool {
				got = handle.GetMostSpecificConfig()
				return true
			}}
			w, config := newConfig(t, f)
			r := w.NewRoute(tt.factory, "requirement")
			var want any
			if tt.log == nil {
				want = "requirement"
			}
			s := w.NewStream(config, nil, fakeenvoy.Setting{Route: r})
			if !s.Request() {
				t.Error("stopped")
			}
			s.Destroy()
			if (r == 0) != (want == nil) || got != want {
				t.Errorf("route %d, %v", r, got)
			}
			w.DestroyRoute(r)
			w.DestroyRoute(r)
			for i := range tt.log {
				tt.log[i] = "warning: Failed to load per-route configuration: " + tt.log[i]
			}
			equal(t, "log", fakeenvoy.Journal(), tt.log...)
		})
	}
}
