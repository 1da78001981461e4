//go:build cgo

package abi

// #include "filter.h"
import "C"

import (
	"runtime"
	"runtime/cgo"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/envoyproxy/envoy/source/extensions/dynamic_modules/sdk/go/shared"
)

// stream is one stream of Envoy, for its filter. What the filter changes takes effect when the call of
// the filter returns, in the same order.
type stream struct {
	shared.HttpFilterHandle // nil: a method that no filter uses panics

	factory   Factory
	envoy     C.envoy_stream
	headers   []headerView // valid during the first call only
	route     C.uintptr_t  // 0: none
	answer    answer
	filter    shared.HttpFilter
	scheduler *scheduler // nil: the stream does not wait
	refused   bool       // after a panic: the stream does not continue, and its memory is not used again
}

// headerView is a C.envoy_header: both are two pairs of pointer and length.
type headerView = [2]shared.UnsafeEnvoyBuffer

var _ [unsafe.Sizeof(C.envoy_header{})]byte = [unsafe.Sizeof(headerView{})]byte{}

// streams keeps the memory of streams that do not wait. They are used during one call only.
var streams = sync.Pool{New: func() any { return new(stream) }}

// phantomCheck checks a request. It returns whether the request may continue. Of a stream that waits
// it sets the handle, which phantomEnd deletes.
//
//export phantomCheck
func phantomCheck(envoy C.envoy_stream, config, route C.uintptr_t, headers *C.envoy_header, length C.size_t, waiting *C.uintptr_t) C.bool {
	s := streams.Get().(*stream)
	s.envoy, s.route, s.headers = envoy, route, unsafe.Slice((*headerView)(unsafe.Pointer(headers)), length)
	passes := s.check(config)
	s.headers = nil
	switch {
	case s.scheduler != nil:
		*waiting = C.uintptr_t(cgo.NewHandle(s))
	case !s.refused:
		s.forget()
		*s = stream{answer: s.answer}
		streams.Put(s)
	}
	return C.bool(passes)
}

func (s *stream) check(config C.uintptr_t) (passes bool) {
	defer func() {
		if value := recover(); value != nil {
			passes = false
			s.refuse(value)
		}
	}()
	s.factory = objects.get(config).(Factory)
	s.filter = s.factory.Create(s)
	passes = s.filter.OnRequestHeaders(headerMap{s: s}, true) == shared.HeadersStatusContinue
	s.answer.apply(s.envoy)
	return passes
}

// forget ends the filter of a stream that does not wait, when the check has been answered. It gets no
// OnStreamComplete.
func (s *stream) forget() {
	defer contain()
	if s.filter != nil {
		s.filter.OnDestroy()
	}
}

// refuse answers a stream after a panic of this package. If that fails too, the stream stays stopped.
func (s *stream) refuse(value any) {
	defer contain()
	s.refused = true
	s.answer = answer{}
	s.factory.Refuse(s, value)
	s.answer.apply(s.envoy)
}

// phantomResume continues a stream after its look-up.
//
//export phantomResume
func phantomResume(waiting C.uintptr_t) {
	defer contain()
	s := cgo.Handle(waiting).Value().(*stream)
	defer func() {
		if value := recover(); value != nil {
			s.refuse(value)
		}
	}()
	if task := s.scheduler.task.Swap(nil); task != nil && !s.refused {
		(*task)()
		s.answer.apply(s.envoy)
	}
}

// phantomEnd ends a stream that waits or has waited.
//
//export phantomEnd
func phantomEnd(waiting C.uintptr_t) {
	defer contain()
	handle := cgo.Handle(waiting)
	s := handle.Value().(*stream)
	handle.Delete()
	s.filter.OnStreamComplete()
	s.filter.OnDestroy()
}

// phantomYield passes through the scheduler.
//
//export phantomYield
func phantomYield() { runtime.Gosched() }

// scheduler runs a task in the worker of a stream.
type scheduler struct {
	envoy C.envoy_scheduler
	task  atomic.Pointer[func()]
}

// GetScheduler implements shared.HttpFilterHandle. The stream waits from now on.
func (s *stream) GetScheduler() shared.Scheduler {
	if s.scheduler == nil {
		s.scheduler = &scheduler{envoy: C.envoy_dynamic_module_callback_http_filter_scheduler_new(s.envoy)}
		runtime.AddCleanup(s.scheduler, func(envoy C.envoy_scheduler) {
			C.envoy_dynamic_module_callback_http_filter_scheduler_delete(envoy)
		}, s.scheduler.envoy)
	}
	return s.scheduler
}

// Schedule implements shared.Scheduler, for one task at a time. Any goroutine may call it.
func (c *scheduler) Schedule(task func()) {
	c.task.Store(&task)
	C.phantom_commit(c.envoy)
	runtime.KeepAlive(c)
}

// GetMostSpecificConfig implements shared.HttpFilterHandle.
func (s *stream) GetMostSpecificConfig() any {
	if s.route == 0 {
		return nil
	}
	return objects.get(s.route)
}

// SetMetadata implements shared.HttpFilterHandle, for strings.
func (s *stream) SetMetadata(space, key string, value any) {
	s.SetMetadataString(space, key, value.(string))
}

// SetMetadataString is SetMetadata of shared.HttpFilterHandle for a string.
func (s *stream) SetMetadataString(space, key, value string) {
	s.answer.use(space)
	s.answer.add(C.set_metadata, 0, key, value)
}

// AddMetadataListString implements shared.HttpFilterHandle.
func (s *stream) AddMetadataListString(space, key, value string) bool {
	s.answer.use(space)
	s.answer.add(C.add_to_metadata, 0, key, value)
	return true
}

// IncrementCounterValue implements shared.HttpFilterHandle, for 1 and counters without tags.
func (s *stream) IncrementCounterValue(id shared.MetricID, value uint64, tags ...string) shared.MetricsResult {
	if value != 1 || len(tags) > 0 {
		return shared.MetricsInvalidTags
	}
	s.answer.add(C.increment, uint32(id), "", "")
	return shared.MetricsSuccess
}

// SendLocalResponse implements shared.HttpFilterHandle.
func (s *stream) SendLocalResponse(status uint32, headers [][2]string, body []byte, details string) {
	for _, h := range headers {
		s.answer.add(C.reply_header, 0, h[0], h[1])
	}
	s.answer.add(C.reply, status, details, unsafe.String(unsafe.SliceData(body), len(body)))
}

// ContinueRequest implements shared.HttpFilterHandle.
func (s *stream) ContinueRequest() { s.answer.add(C.continue_stream, 0, "", "") }

// RequestHeaders implements shared.HttpFilterHandle.
func (s *stream) RequestHeaders() shared.HeaderMap { return headerMap{s: s} }

// headerMap is the request's headers.
type headerMap struct {
	shared.HeaderMap // nil: a method that no filter uses panics

	s *stream
}

// GetAll implements shared.HeaderMap. The headers are those before all changes, in the first call.
func (h headerMap) GetAll() [][2]shared.UnsafeEnvoyBuffer { return h.s.headers }

// Set implements shared.HeaderMap.
func (h headerMap) Set(name, value string) { h.s.answer.add(C.set_header, 0, name, value) }

// Remove implements shared.HeaderMap.
func (h headerMap) Remove(name string) { h.s.answer.add(C.remove_header, 0, name, "") }
