//go:build cgo

package abi_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/envoyproxy/envoy/source/extensions/dynamic_modules/sdk/go/shared"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz/envoymodule/abi/fakeenvoy"
)

// once runs a stream with a check that does not wait, twice, because the second one uses memory of the first again.
func once(t *testing.T, headers [][2]string, check func(shared.HttpFilterHandle, shared.HeaderMap) bool) (continued bool, did []string) {
	t.Helper()
	f := &factory{check: check}
	w, config := newConfig(t, f)
	for range 2 {
		s := w.NewStream(config, headers, fakeenvoy.Setting{})
		continued = s.Request()
		s.Complete()
		s.Destroy()
		did = s.Did
	}
	return continued, did
}

func TestOperationsKeepTheirOrderAndText(t *testing.T) {
	long := strings.Repeat("long", 10_000) // more than an answer keeps
	continued, did := once(t, nil, func(handle shared.HttpFilterHandle, headers shared.HeaderMap) bool {
		handle.SetMetadata("one", "key", "value")
		handle.SetMetadata("one", "empty", "")
		handle.AddMetadataListString("one", "list", "a\x00\xff")
		handle.AddMetadataListString("two", "list", "b")
		handle.SetMetadata("one", "last", "c")
		handle.IncrementCounterValue(7, 1)
		headers.Set("set", "value")
		headers.Set("set-empty", "")
		headers.Set("", long)
		headers.Remove("gone")
		handle.IncrementCounterValue(8, 1)
		return true
	})
	if !continued {
		t.Error("stopped")
	}
	equal(t, "operations", did,
		`metadata "one" "key" "value"`, `metadata "one" "empty" ""`, `list "one" "list" "a\x00\xff"`, `list "two" "list" "b"`,
		`metadata "one" "last" "c"`, `count 7`, `set "set" "value"`, `set "set-empty" ""`, `set "" "`+long+`"`, `remove "gone"`, `count 8`)
}

func TestOtherCountersAreRejected(t *testing.T) {
	_, did := once(t, nil, func(handle shared.HttpFilterHandle, _ shared.HeaderMap) bool {
		if handle.IncrementCounterValue(7, 2) == shared.MetricsSuccess || handle.IncrementCounterValue(7, 1, "tag") == shared.MetricsSuccess {
			t.Error("success")
		}
		return true
	})
	equal(t, "operations", did)
}

func TestHeadersAreThoseOfEnvoy(t *testing.T) {
	for _, n := range []int{0, 1, 63, 64, 65, 1000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			var want [][2]string
			for i := range n {
				want = append(want, [2]string{fmt.Sprintf("x-%d", i), strings.Repeat("v\x00\xff", i%7)})
			}
			continued, did := once(t, want, func(_ shared.HttpFilterHandle, headers shared.HeaderMap) bool {
				got := headers.GetAll()
				if len(got) != n {
					t.Errorf("%d headers", len(got)) // Fatal must not end a thread of C
					return false
				}
				headers.Set("set", "first") // takes effect after the check
				for i, h := range got {
					if h[0].ToUnsafeString() != want[i][0] || h[1].ToUnsafeString() != want[i][1] {
						t.Errorf("header %d: %q %q", i, h[0].ToUnsafeString(), h[1].ToUnsafeString())
					}
				}
				return true
			})
			if !continued {
				t.Error("stopped")
			}
			equal(t, "operations", did, `set "set" "first"`)
		})
	}
}

// Go calls C for the operations only, and not at all without one. The call of the fake is the other.
func TestHitCallsEnvoyOnce(t *testing.T) {
	for operations := range 3 {
		f := &factory{check: func(_ shared.HttpFilterHandle, headers shared.HeaderMap) bool {
			for range operations {
				headers.Set("a", "b")
			}
			return true
		}}
		w, config := newConfig(t, f)
		s := w.NewStream(config, [][2]string{{"a", "b"}}, fakeenvoy.Setting{Quiet: true})
		s.WholeStreams(1)
		const n = 100
		one := calls(func() { s.WholeStreams(1) })
		many := calls(func() { s.WholeStreams(1 + n) })
		if got, want := many-one, int64(n*min(operations, 1)); got != want {
			t.Errorf("%d streams with %d operations: %d calls of C, want %d", n, operations, got, want)
		}
		s.Destroy()
	}
}

// calls returns how often Go calls C.
func calls(run func()) int64 {
	before := runtime.NumCgoCall()
	run()
	return runtime.NumCgoCall() - before
}

func TestDenial(t *testing.T) {
	continued, did := once(t, nil, func(handle shared.HttpFilterHandle, _ shared.HeaderMap) bool {
		handle.SetMetadata("one", "decision", "deny")
		handle.SendLocalResponse(401, [][2]string{{"content-type", "application/json"}, {"empty", ""}}, []byte("{\"a\":\x00\xff}"), "details")
		return false
	})
	if continued {
		t.Error("continued")
	}
	equal(t, "operations", did, `metadata "one" "decision" "deny"`,
		`reply header "content-type" "application/json"`, `reply header "empty" ""`, `reply 401 "{\"a\":\x00\xff}" "details"`)

	continued, did = once(t, nil, func(handle shared.HttpFilterHandle, _ shared.HeaderMap) bool {
		handle.SendLocalResponse(403, nil, nil, "")
		return false
	})
	if continued {
		t.Error("continued")
	}
	equal(t, "operations", did, `reply 403 "" ""`)

	continued, did = once(t, nil, func(handle shared.HttpFilterHandle, _ shared.HeaderMap) bool {
		handle.SendLocalResponse(403, make([][2]string, 100), nil, "")
		return false
	})
	if continued || len(did) != 17 || did[16] != `reply 403 "" ""` { // there is room for 16 headers
		t.Errorf("%v, %q", continued, did)
	}
}

// BenchmarkHit is a hit with the headers of a browser and what the module answers, over an Envoy that does nothing. A
// change to Go and back for a filter that does nothing is the baseline, and a function of the module that does nothing.
// The times are of the worker's processor.
func BenchmarkHit(b *testing.B) {
	var headers [][2]string
	for i := range 16 {
		headers = append(headers, [2]string{fmt.Sprintf("header-%d", i), strings.Repeat("v", 8*i)})
	}
	nothing := func(shared.HttpFilterHandle, shared.HeaderMap) bool { return true }
	hit := func(handle shared.HttpFilterHandle, headers shared.HeaderMap) bool {
		for _, h := range headers.GetAll() {
			if h[0].ToUnsafeString() == "authorization" {
				return false
			}
		}
		for _, key := range metadata {
			handle.SetMetadata("envoy.filters.http.ext_authz", key, value)
		}
		handle.AddMetadataListString("envoy.filters.http.ext_authz", "scopes", "chat:companion")
		handle.IncrementCounterValue(1, 1)
		for _, key := range metadata[:4] {
			headers.Set(key, "value")
		}
		headers.Remove("authorization")
		return true
	}
	f := &factory{}
	w, config := newConfig(b, f)
	s := w.NewStream(config, headers, fakeenvoy.Setting{Quiet: true})
	run := func(name string, run func(n int) (cpu int64)) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.ReportMetric(float64(run(b.N))/float64(b.N), "cpu-ns/op")
		})
	}
	streams := func(check func(shared.HttpFilterHandle, shared.HeaderMap) bool) func(int) int64 {
		return func(n int) int64 {
			f.check = check
			continued, cpu := s.WholeStreams(n)
			if continued != n {
				b.Fatalf("%d of %d continued", continued, n)
			}
			return cpu
		}
	}
	run("empty hook", s.EmptyHooks)
	run("empty filter", streams(nothing))
	run("hit", streams(hit))
	s.Destroy()
}

var (
	metadata     = []string{"decision", "reason", "principal", "account", "credential", "endpoint"}
	value    any = "value"
)
