package envoymodule

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/envoyproxy/envoy/source/extensions/dynamic_modules/sdk/go/shared"
)

func TestMissStopsTheStreamUntilItsLookUpReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.misses, e.gate = true, make(chan struct{})
		f := e.factory(t)
		s := newStream(t, to("/me", bearer(chatKey), "x-phantom-new: 1")...)
		s.request(f)
		synctest.Wait()
		if s.status != shared.HeadersStatusStopAllAndWatermark || s.passed() || len(s.metadata) > 0 || len(s.counted) > 0 || len(s.replies) > 0 {
			t.Errorf("the status %d, metadata %v, answers %v", s.status, s.metadata, s.replies)
		}
		if n := f.waiting.Load(); n != 1 {
			t.Errorf("%d streams wait", n)
		}
		e.gate <- struct{}{}
		synctest.Wait()
		if s.passed() {
			t.Error("continued outside the worker")
		}
		finish(s)
		if !s.passed() || s.continued != 1 || s.headers.all()["x-phantom-credential-id"] == nil {
			t.Errorf("continued %d times with %v", s.continued, s.headers.all())
		}
		if n := f.waiting.Load(); n != 0 {
			t.Errorf("%d streams wait", n)
		}
	})
}

// The client gets our 503 before the limit of the check, and the answer comes before it.
func TestLookUpEndsAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.misses, e.gate = true, make(chan struct{})
		s := newStream(t, to("/me", bearer(chatKey))...)
		began := time.Now()
		s.request(e.factory(t))
		finish(s)
		if took := time.Since(began); s.denied() != 503 || took >= e.limit || took < e.limit-50*time.Millisecond {
			t.Errorf("the status %d after %v, the limit is %v", s.denied(), took, e.limit)
		}
	})
}

// An allow that a busy worker sends too late relies on old facts.
func TestLateAllowIsUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.misses = true
		s := newStream(t, to("/me", bearer(chatKey))...)
		s.request(e.factory(t))
		<-time.After(time.Second + time.Millisecond)
		finish(s)
		if s.denied() != 503 || s.metadata["reason"] != "unavailable" {
			t.Errorf("the status %d, %v", s.denied(), s.metadata)
		}
	})
}

// A stream that ends is forgotten: its look-up ends, and nothing touches it any more.
func TestStreamThatEndsIsForgotten(t *testing.T) {
	ends := map[string]func(s *stream){
		"complete": (*stream).complete,
		"destroyed without OnStreamComplete": func(s *stream) {
			s.callback(s.filter.OnDestroy)
			s.completed.Store(true)
		},
	}
	moments := map[string]func(e *engine){
		"before its look-up begins":   func(*engine) {},
		"while its look-up runs":      func(*engine) { synctest.Wait() },
		"while its look-up returns":   func(e *engine) { close(e.gate) },
		"while its look-up times out": func(e *engine) { <-time.After(e.limit - 20*time.Millisecond) },
		"after its look-up":           func(e *engine) { close(e.gate); synctest.Wait() },
		"after its look-up timed out": func(e *engine) { <-time.After(e.limit) },
	}
	for how, end := range ends {
		for when, await := range moments {
			t.Run(how+" "+when, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { endStream(t, await, end) })
			})
		}
	}
}

func endStream(t *testing.T, await func(*engine), end func(*stream)) {
	t.Helper()
	e := newEngine(t)
	e.misses, e.gate = true, make(chan struct{})
	f := e.factory(t)
	s := newStream(t, to("/me", bearer(chatKey))...)
	s.request(f)
	await(e)
	began := time.Now()
	end(s)
	synctest.Wait()
	select {
	case task := <-s.tasks: // scheduled before the end; the SDK drops it, but must not need to
		s.callback(task)
	default:
	}
	if f.waiting.Load() != 0 || time.Since(began) != 0 {
		t.Errorf("%d streams wait after %v", f.waiting.Load(), time.Since(began))
	}
	if s.passed() || len(s.replies)+len(s.metadata)+len(s.counted) > 0 || e.panicCount(t) > 0 {
		t.Errorf("passed %t, answers %v, metadata %v, %d panics", s.passed(), s.replies, s.metadata, e.panicCount(t))
	}
}

func TestAtMostMaxWaitingStreamsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.misses, e.gate = true, make(chan struct{})
		f := e.factory(t)
		waiting := make([]*stream, 4)
		f.waiting.Store(maxWaiting - int64(len(waiting)))
		for i := range waiting {
			waiting[i] = newStream(t, to("/me", bearer(chatKey))...)
			waiting[i].request(f)
		}
		for range 3 {
			if s := settled(t, f, nil, to("/me", bearer(chatKey))...); s.denied() != 503 || s.metadata["reason"] != "unavailable" {
				t.Errorf("one too many: the status %d, %v", s.denied(), s.metadata)
			}
		}
		if s := settled(t, f, nil, to("/me")...); s.denied() != 401 {
			t.Errorf("a check without a look-up: the status %d", s.denied())
		}
		waiting[0].complete()
		synctest.Wait() // the end of its look-up makes room
		late := newStream(t, to("/me", bearer(chatKey))...)
		late.request(f)
		close(e.gate)
		for _, s := range append(waiting[1:], late) {
			finish(s)
			if !s.passed() {
				t.Errorf("a waiting stream: the status %d", s.denied())
			}
		}
		synctest.Wait()
		if n := f.waiting.Load(); n != maxWaiting-4 {
			t.Errorf("%d wait", n)
		}
	})
}

func TestShadowModePassesWhatCannotWait(t *testing.T) {
	e := newEngine(t)
	e.misses, e.rules.Shadow = true, true
	f := e.factory(t)
	f.waiting.Store(maxWaiting)
	s := settled(t, f, nil, to("/me", bearer(chatKey), "x-phantom-new: evil")...)
	if !s.passed() || s.metadata["reason"] != "unavailable" || s.metadata["shadow_decision"] != "deny" || s.headers.all()["x-phantom-new"] != nil {
		t.Errorf("passed %t, %v, %v", s.passed(), s.metadata, s.headers.all())
	}
	if n := f.waiting.Load(); n != maxWaiting {
		t.Errorf("%d wait", n)
	}
}

// Many workers at once, with streams that end at any time. Run with -race.
func TestWorkersInParallel(t *testing.T) {
	e := newEngine(t)
	e.misses = true
	f := e.factory(t)
	var workers sync.WaitGroup
	for worker := range 8 {
		workers.Go(func() {
			for i := range 200 {
				s := newStream(t, to("/me", bearer(chatKey))...)
				s.request(f)
				if (i+worker)%2 == 0 {
					for range i % 50 {
						runtime.Gosched()
					}
					s.complete()
					select {
					case task := <-s.tasks:
						s.callback(task)
					default:
					}
					if s.passed() || len(s.replies) > 0 {
						t.Error("an ended stream was answered")
					}
					continue
				}
				finish(s)
				if !s.passed() {
					t.Errorf("the status %d", s.denied())
				}
			}
		})
	}
	workers.Wait()
	for f.waiting.Load() != 0 {
		runtime.Gosched()
	}
}
