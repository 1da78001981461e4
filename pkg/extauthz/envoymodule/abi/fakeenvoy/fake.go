//go:build cgo

// Package fakeenvoy is an Envoy for tests of package abi: it defines the functions that the module
// calls, records their calls, and calls the functions of the module in threads of C, as Envoy's workers
// do. It notes an error if the module calls a function of a stream in another thread, so also if none of
// the module's functions is running. Memory that it hands out is overwritten and freed as soon as Envoy may do so.
package fakeenvoy

/*
#cgo CFLAGS: -O2 -Wall
#cgo linux LDFLAGS: -Wl,--unresolved-symbols=ignore-all
#include <stdlib.h>
#include "fake.h"
*/
import "C"

import (
	"fmt"
	"strings"
	"unsafe"

	_ "github.com/phantomrouter/phantom-authz/pkg/extauthz/envoymodule/abi" // has the module's functions
)

// Worker is a thread of Envoy. One goroutine at a time may use it and its streams.
type Worker struct{ c *C.worker }

// NewWorker starts a thread.
func NewWorker() *Worker { return &Worker{C.fake_start()} }

// Close ends the thread.
func (w *Worker) Close() { w.do(C.call{kind: C.end_worker}) }

func (w *Worker) do(c C.call) (result uintptr, cpu int64) {
	result = uintptr(C.fake_call(w.c, &c))
	return result, int64(c.cpu)
}

// textOf returns a copy in memory of C.
func textOf(s string) C.text {
	return C.text{ptr: (*C.char)(C.CBytes([]byte(s))), length: C.size_t(len(s))}
}

// Config is what the module returned for a configuration. 0 rejects it.
type Config uintptr

// NewConfig makes a configuration.
func (w *Worker) NewConfig(name, config string) Config {
	result, _ := w.do(C.call{kind: C.new_config, name: textOf(name), config: textOf(config)})
	return Config(result)
}

// DestroyConfig ends a configuration.
func (w *Worker) DestroyConfig(c Config) {
	w.do(C.call{kind: C.destroy_config, argument: C.uintptr_t(c)})
}

// NewRoute makes the configuration of a route.
func (w *Worker) NewRoute(name, config string) Config {
	result, _ := w.do(C.call{kind: C.new_route, name: textOf(name), config: textOf(config)})
	return Config(result)
}

// DestroyRoute ends the configuration of a route.
func (w *Worker) DestroyRoute(route Config) {
	w.do(C.call{kind: C.destroy_route, argument: C.uintptr_t(route)})
}

// Setting is how a stream differs from most.
type Setting struct {
	Route          Config // 0: none
	WithoutModule  bool   // the module had no memory for it
	RefusesHeaders bool   // Envoy does not return the headers
	EndsInside     bool   // it ends while the module continues it
	Quiet          bool   // it records nothing, for WholeStreams
}

// Stream is a stream of a worker.
type Stream struct {
	// Did are the module's calls in their order, each as its name, its number unless 0, and its texts.
	Did []string

	worker *Worker
	c      *C.stream
}

// NewStream starts a stream with headers.
func (w *Worker) NewStream(config Config, headers [][2]string, setting Setting) *Stream {
	s := &Stream{worker: w, c: (*C.stream)(C.calloc(1, C.sizeof_stream))}
	s.c.worker = w.c
	*(*uintptr)(unsafe.Pointer(&s.c.config)), *(*uintptr)(unsafe.Pointer(&s.c.route)) = uintptr(config), uintptr(setting.Route)
	s.c.refuses_headers, s.c.ends_inside, s.c.quiet = C.bool(setting.RefusesHeaders), C.bool(setting.EndsInside), C.bool(setting.Quiet)
	s.c.headers_length = C.size_t(len(headers))
	s.c.headers = (*C.envoy_header)(C.calloc(C.size_t(len(headers)+1), C.sizeof_envoy_header))
	for i, h := range unsafe.Slice(s.c.headers, len(headers)) {
		key, value := textOf(headers[i][0]), textOf(headers[i][1])
		h.key_ptr, h.key_length, h.value_ptr, h.value_length = key.ptr, key.length, value.ptr, value.length
		unsafe.Slice(s.c.headers, len(headers))[i] = h
	}
	if !setting.WithoutModule && !setting.Quiet {
		s.do(C.new_stream, 0)
	}
	return s
}

func (s *Stream) do(kind C.call_kind, argument int) (result uintptr, cpu int64) {
	result, cpu = s.worker.do(C.call{kind: kind, stream: s.c, argument: C.uintptr_t(argument)})
	for _, o := range unsafe.Slice(s.c.operations, s.c.length) {
		var did strings.Builder
		did.WriteString(C.GoString(o.name))
		if o.number != 0 {
			fmt.Fprintf(&did, " %d", o.number)
		}
		for _, t := range o.texts[:o.count] {
			fmt.Fprintf(&did, " %q", C.GoStringN(t.ptr, C.int(t.length)))
		}
		s.Did = append(s.Did, did.String())
	}
	C.fake_clear(s.c)
	return result, cpu
}

// Request passes the headers to the module and reports whether the request continues. It panics if the
// module returns something else than continue or stop.
func (s *Stream) Request() (continues bool) {
	status, _ := s.do(C.request, 0)
	if status != C.headers_continue && status != C.headers_stop_and_watermark {
		panic(fmt.Sprintf("the status %d", status))
	}
	return status == C.headers_continue
}

// Scheduled delivers an event of the stream's scheduler.
func (s *Stream) Scheduled() { s.do(C.scheduled, 0) }

// Complete announces the end of the stream.
func (s *Stream) Complete() { s.do(C.complete, 0) }

// Destroy ends the stream.
func (s *Stream) Destroy() {
	if s.c.module != nil || !bool(s.c.ends_inside) {
		s.do(C.destroy, 0)
	}
	C.free(unsafe.Pointer(s.c))
	s.c = nil
}

// WholeStreams runs n streams with the headers of s, from start to end, and returns how many
// continued and the processor time of the thread, in nanoseconds.
func (s *Stream) WholeStreams(n int) (continued int, cpu int64) {
	result, cpu := s.do(C.whole_streams, n)
	return int(result), cpu
}

// EmptyHooks calls a function of the module that does nothing n times and returns the processor time.
func (s *Stream) EmptyHooks(n int) (cpu int64) {
	_, cpu = s.do(C.empty_hooks, n)
	return cpu
}

// Schedulers returns how many schedulers the module made, its commits, and how many schedulers it deleted.
func Schedulers() (made, commits, deleted int) {
	c := C.fake_schedulers()
	return int(c.made), int(c.commits), int(c.deleted)
}

// Journal returns the warnings that the module logged, the counters that it defined and the errors that
// were noted since the last call.
func Journal() []string {
	all := C.fake_journal()
	defer C.free(unsafe.Pointer(all.ptr))
	if all.length == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(C.GoStringN(all.ptr, C.int(all.length)), "\x00"), "\x00")
}
