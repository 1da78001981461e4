//go:build cgo

package abi_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/envoyproxy/envoy/source/extensions/dynamic_modules/sdk/go/shared"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz/envoymodule/abi/fakeenvoy"
)

// A stream that waits is ended by Complete, by Destroy, or by both, at any time.
func TestWait(t *testing.T) {
	continued := []string{`metadata "one" "key" "value"`, `set "a" "b"`, "continue"}
	for _, tt := range []struct {
		name    string
		run     func(s *fakeenvoy.Stream, schedule func())
		setting fakeenvoy.Setting
		did     []string
		tasks   int32
	}{
		{name: "continues", did: continued, tasks: 1, run: func(s *fakeenvoy.Stream, schedule func()) {
			schedule()
			s.Scheduled()
			s.Complete()
			s.Destroy()
		}},
		{name: "scheduled twice", did: continued, tasks: 1, run: func(s *fakeenvoy.Stream, schedule func()) {
			schedule()
			s.Scheduled()
			s.Scheduled()
			s.Complete()
			s.Scheduled()
			s.Destroy()
		}},
		{name: "destroyed alone", did: continued, tasks: 1, run: func(s *fakeenvoy.Stream, schedule func()) {
			schedule()
			s.Scheduled()
			s.Destroy()
		}},
		{name: "ends while it continues", setting: fakeenvoy.Setting{EndsInside: true}, did: continued, tasks: 1, run: func(s *fakeenvoy.Stream, schedule func()) {
			schedule()
			s.Scheduled()
			s.Destroy()
		}},
		{name: "scheduled too early", did: continued, tasks: 1, run: func(s *fakeenvoy.Stream, schedule func()) {
			s.Scheduled()
			schedule()
			s.Scheduled()
			s.Destroy()
		}},
		{name: "completed before Schedule", run: func(s *fakeenvoy.Stream, schedule func()) {
			s.Complete()
			s.Destroy()
			schedule()
		}},
		{name: "destroyed before Schedule", run: func(s *fakeenvoy.Stream, schedule func()) {
			s.Destroy()
			schedule()
		}},
		{name: "completed before scheduled", run: func(s *fakeenvoy.Stream, schedule func()) {
			schedule()
			s.Complete()
			s.Scheduled()
			s.Destroy()
		}},
		{name: "destroyed before scheduled", run: func(s *fakeenvoy.Stream, schedule func()) {
			schedule()
			s.Destroy()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			start := make(chan struct{})
			f := &factory{resume: func(handle shared.HttpFilterHandle) {
				headers := handle.RequestHeaders()
				if n := len(headers.GetAll()); n > 0 {
					t.Errorf("%d headers in memory that is not valid any more", n)
				}
				handle.SetMetadata("one", "key", "value")
				headers.Set("a", "b")
				handle.ContinueRequest()
			}}
			f.check = f.wait(start)
			w, config := newConfig(t, f)
			madeBefore, commitsBefore, _ := fakeenvoy.Schedulers()
			s := w.NewStream(config, [][2]string{{"a", "b"}}, tt.setting)
			if s.Request() {
				t.Error("did not wait")
			}
			tt.run(s, func() {
				close(start)
				f.waiting.Wait()
			})
			equal(t, "operations", s.Did, tt.did...)
			if n := f.tasks.Load(); n != tt.tasks {
				t.Errorf("%d tasks", n)
			}
			if c, d := f.ended.completed.Load(), f.ended.destroyed.Load(); c != 1 || d != 1 {
				t.Errorf("OnStreamComplete was called %d times, OnDestroy %d times", c, d)
			}
			if made, commits, _ := fakeenvoy.Schedulers(); made-madeBefore != 1 || commits-commitsBefore != 1 {
				t.Errorf("%d schedulers, %d commits", made-madeBefore, commits-commitsBefore)
			}
		})
	}
}

// What a filter did before it waits is done before it waits, and the namespace of its metadata is that of each text.
func TestWaitAfterOperations(t *testing.T) {
	start := make(chan struct{})
	f := &factory{resume: func(handle shared.HttpFilterHandle) {
		handle.SetMetadata("one", "after", "value")
		handle.SendLocalResponse(403, [][2]string{{"a", "b"}}, []byte("body"), "details")
	}}
	wait := f.wait(start)
	f.check = func(handle shared.HttpFilterHandle, headers shared.HeaderMap) bool {
		if handle.GetScheduler() != handle.GetScheduler() {
			t.Error("two schedulers")
		}
		handle.SetMetadata("one", "before", "value")
		return wait(handle, headers)
	}
	w, config := newConfig(t, f)
	s := w.NewStream(config, nil, fakeenvoy.Setting{})
	s.Request()
	equal(t, "before", s.Did, `metadata "one" "before" "value"`)
	close(start)
	f.waiting.Wait()
	s.Scheduled()
	s.Destroy()
	equal(t, "after", s.Did[1:], `metadata "one" "after" "value"`, `reply header "a" "b"`, `reply 403 "body" "details"`)
}

// The fake notices a function of a stream that is called in another thread than its worker's.
func TestOtherThreadIsNoticed(t *testing.T) {
	f := &factory{check: func(handle shared.HttpFilterHandle, _ shared.HeaderMap) bool {
		var other sync.WaitGroup
		other.Go(func() { handle.GetScheduler() })
		other.Wait()
		return false
	}}
	w, config := newConfig(t, f)
	s := w.NewStream(config, nil, fakeenvoy.Setting{})
	s.Request()
	s.Destroy()
	equal(t, "journal", fakeenvoy.Journal(), "error: in another thread: scheduler_new")
}

// Workers share the factory and the memory for answers. Each stream gets its own answer.
func TestManyWorkers(t *testing.T) {
	const workers, streams = 8, 2000
	f := &factory{}
	f.check = func(handle shared.HttpFilterHandle, headers shared.HeaderMap) bool {
		all := headers.GetAll()
		id, how := all[0][1].ToString(), all[1][1].ToUnsafeString()
		answer := func() {
			handle.SetMetadata("one", "id", id)
			handle.IncrementCounterValue(7, 1)
			if how == "denied" {
				handle.SendLocalResponse(403, nil, []byte(id), "")
			}
		}
		if how != "waits" {
			answer()
			return how != "denied"
		}
		scheduler := handle.GetScheduler()
		f.waiting.Go(func() {
			scheduler.Schedule(func() {
				answer()
				handle.ContinueRequest()
			})
			if done, ok := waits.LoadAndDelete(id); ok {
				close(done.(chan struct{}))
			}
		})
		return false
	}
	_, config := newConfig(t, f)
	var running sync.WaitGroup
	for i := range workers {
		w := newWorker(t)
		running.Go(func() {
			for j := range streams {
				id := fmt.Sprintf("%d-%d", i, j)
				how := []string{"continues", "denied", "waits", "continues"}[j%4]
				want := []string{fmt.Sprintf("metadata %q %q %q", "one", "id", id), "count 7"}
				done := make(chan struct{})
				if how == "waits" {
					waits.Store(id, done)
				}
				s := w.NewStream(config, [][2]string{{"id", id}, {"how", how}}, fakeenvoy.Setting{EndsInside: j%8 == 2})
				if s.Request() != (how == "continues") {
					t.Errorf("%s: %s", id, how)
				}
				switch how {
				case "waits":
					<-done
					s.Scheduled()
					want = append(want, "continue")
				case "denied":
					want = append(want, fmt.Sprintf("reply 403 %q %q", id, ""))
				}
				s.Destroy()
				equal(t, id, s.Did, want...)
			}
		})
	}
	running.Wait()
	waited := int32(workers * streams / 4)
	if c, d := f.ended.completed.Load(), f.ended.destroyed.Load(); c != waited || d != workers*streams {
		t.Errorf("of %d streams %d waited, %d were completed and %d destroyed", workers*streams, waited, c, d)
	}
}

var waits sync.Map // of TestManyWorkers: id to a channel that is closed after Schedule
