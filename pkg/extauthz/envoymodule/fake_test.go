package envoymodule

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/envoyproxy/envoy/source/extensions/dynamic_modules/sdk/go/shared"
)

// stream is one stream of Envoy with its filter: an HttpFilterHandle that behaves as the SDK's. It
// fails the test if the filter calls it outside a callback, after the end of the stream, or twice
// where Envoy allows one call. A method that the filter is not expected to call panics.
type stream struct {
	shared.HttpFilterHandle

	t       *testing.T
	filter  shared.HttpFilter
	headers *headerMap
	route   any            // of GetMostSpecificConfig
	panics  map[string]int // by method: how many more calls panic; below 0 all do

	status    shared.HeadersStatus
	metadata  map[string]any // of metadataNamespace; a list is a []string
	counted   map[shared.MetricID]int
	replies   []localReply
	continued int
	inside    bool // a callback is running

	tasks     chan func() // for the worker
	completed atomic.Bool
}

// localReply is a call of SendLocalResponse.
type localReply struct {
	status  uint32
	headers [][2]string
	body    string
	details string
}

// newStream returns a stream with those headers, as "name: value".
func newStream(t *testing.T, headers ...string) *stream {
	t.Helper()
	s := &stream{
		t: t, panics: map[string]int{}, metadata: map[string]any{}, counted: map[shared.MetricID]int{},
		tasks: make(chan func(), 1),
	}
	s.headers = &headerMap{s: s, entries: entriesOf(headers)}
	return s
}

// entriesOf returns headers that are given as "name: value".
func entriesOf(headers []string) (entries []entry) {
	for _, header := range headers {
		name, value, _ := strings.Cut(header[1:], ": ") // a name may begin with ':'
		entries = append(entries, entry{[]byte(header[:1] + name), []byte(value)})
	}
	return entries
}

// call notes a call of the filter, and panics if that is injected.
func (s *stream) call(method string) {
	if !s.inside || s.completed.Load() {
		s.t.Errorf("%s outside a callback", method)
	}
	s.inject(method)
}

func (s *stream) inject(method string) {
	if s.panics[method] != 0 {
		s.panics[method]--
		panic("a secret of " + method)
	}
}

// callback runs a callback of the filter as the SDK does. What it left of Envoy's memory is invalid
// afterwards.
func (s *stream) callback(run func()) {
	s.t.Helper()
	defer func() {
		if value := recover(); value != nil {
			s.t.Errorf("a panic reached Envoy: %v", value)
		}
	}()
	s.inside = true
	defer func() {
		s.inside = false
		s.headers.move()
	}()
	run()
}

// request creates the filter and calls OnRequestHeaders.
func (s *stream) request(f shared.HttpFilterFactory) {
	s.t.Helper()
	if s.filter = f.Create(s); s.filter == nil {
		s.t.Fatal("no filter: the SDK would let the request pass")
	}
	s.callback(func() { s.status = s.filter.OnRequestHeaders(s.headers, true) })
}

// complete ends the stream.
func (s *stream) complete() {
	s.t.Helper()
	s.callback(s.filter.OnStreamComplete)
	s.completed.Store(true)
	s.callback(s.filter.OnDestroy)
}

// passed reports whether the request went on to the upstream. It fails the test if the filter let it
// pass twice, or let it pass and answered it.
func (s *stream) passed() bool {
	s.t.Helper()
	passes := s.continued
	if s.status == shared.HeadersStatusContinue {
		passes++
	} else if s.status != shared.HeadersStatusStopAllAndWatermark {
		s.t.Errorf("the status %d", s.status)
	}
	if passes+len(s.replies) > 1 {
		s.t.Errorf("passed %d times and answered %d times", passes, len(s.replies))
	}
	return passes > 0
}

// denied returns the status of the local reply, 0 without one.
func (s *stream) denied() uint32 {
	s.t.Helper()
	if s.passed() || len(s.replies) == 0 {
		return 0
	}
	return s.replies[0].status
}

func (s *stream) RequestHeaders() shared.HeaderMap {
	s.call("RequestHeaders")
	return s.headers
}

func (s *stream) GetMostSpecificConfig() any {
	s.call("GetMostSpecificConfig")
	return s.route
}

func (s *stream) GetScheduler() shared.Scheduler {
	s.call("GetScheduler")
	return scheduler{s}
}

func (s *stream) SetMetadataString(namespace, key, value string) {
	s.call("SetMetadataString")
	if namespace != metadataNamespace {
		s.t.Errorf("the namespace %q", namespace)
	}
	s.metadata[key] = strings.Clone(value)
}

func (s *stream) AddMetadataListString(namespace, key, value string) bool {
	s.call("AddMetadataListString")
	if namespace != metadataNamespace {
		s.t.Errorf("the namespace %q", namespace)
	}
	list, _ := s.metadata[key].([]string)
	s.metadata[key] = append(list, strings.Clone(value))
	return true
}

func (s *stream) IncrementCounterValue(id shared.MetricID, value uint64, tags ...string) shared.MetricsResult {
	s.call("IncrementCounterValue")
	if len(tags) > 0 {
		s.t.Errorf("tags %q", tags)
	}
	s.counted[id] += int(value)
	return shared.MetricsSuccess
}

func (s *stream) SendLocalResponse(status uint32, headers [][2]string, body []byte, details string) {
	s.call("SendLocalResponse")
	r := localReply{status: status, body: string(body), details: strings.Clone(details)}
	for _, h := range headers {
		r.headers = append(r.headers, [2]string{strings.Clone(h[0]), strings.Clone(h[1])})
	}
	s.replies = append(s.replies, r)
}

func (s *stream) ContinueRequest() {
	s.call("ContinueRequest")
	s.continued++
}

// scheduler runs tasks in the stream's worker, later.
type scheduler struct{ s *stream }

func (c scheduler) Schedule(task func()) {
	if c.s.completed.Load() {
		c.s.t.Error("Schedule after the end of the stream, whose worker may be gone")
	}
	c.s.inject("Schedule")
	c.s.tasks <- task
}

// headerMap is Envoy's map of request headers. A string that refers to memory of a header that has
// changed, or is used after the callback, is overwritten.
type headerMap struct {
	shared.HeaderMap
	s       *stream
	entries []entry
}

type entry struct{ name, value []byte }

func overwrite(memory []byte) {
	for i := range memory {
		memory[i] = '!'
	}
}

func buffer(memory []byte) shared.UnsafeEnvoyBuffer {
	return shared.UnsafeEnvoyBuffer{Ptr: unsafe.SliceData(memory), Len: uint64(len(memory))}
}

func (m *headerMap) GetAll() [][2]shared.UnsafeEnvoyBuffer {
	m.s.call("GetAll")
	var all [][2]shared.UnsafeEnvoyBuffer
	for _, e := range m.entries {
		all = append(all, [2]shared.UnsafeEnvoyBuffer{buffer(e.name), buffer(e.value)})
	}
	return all
}

// Set overwrites all values. Envoy removes the header instead if the value is empty.
func (m *headerMap) Set(name, value string) {
	m.s.call("Set")
	name, value = strings.Clone(name), strings.Clone(value)
	m.drop(name)
	if value != "" {
		m.entries = append(m.entries, entry{[]byte(name), []byte(value)})
	}
}

func (m *headerMap) Remove(name string) {
	m.s.call("Remove")
	m.drop(strings.Clone(name))
}

func (m *headerMap) drop(name string) {
	m.entries = slices.DeleteFunc(m.entries, func(e entry) bool {
		if string(e.name) != name {
			return false
		}
		overwrite(e.name)
		overwrite(e.value)
		return true
	})
}

// move gives every header other memory.
func (m *headerMap) move() {
	for i, e := range m.entries {
		m.entries[i] = entry{bytes.Clone(e.name), bytes.Clone(e.value)}
		overwrite(e.name)
		overwrite(e.value)
	}
}

// all returns the values by name.
func (m *headerMap) all() map[string][]string {
	all := map[string][]string{}
	for _, e := range m.entries {
		all[string(e.name)] = append(all[string(e.name)], string(e.value))
	}
	return all
}

// configHandle is an HttpFilterConfigHandle.
type configHandle struct {
	shared.HttpFilterConfigHandle
	counters map[string]shared.MetricID
	result   shared.MetricsResult
	panics   bool
}

func (c *configHandle) DefineCounter(name string, tags ...string) (shared.MetricID, shared.MetricsResult) {
	if c.panics {
		panic("a secret of DefineCounter")
	}
	if c.counters == nil {
		c.counters = map[string]shared.MetricID{}
	}
	id := shared.MetricID(100 + len(c.counters))
	c.counters[strings.Join(append([]string{name}, tags...), " ")] = id
	return id, c.result
}

// countedBy returns what a stream counted, by the names of the counters.
func (c *configHandle) countedBy(s *stream) map[string]int {
	names := map[string]int{}
	for name, id := range maps.All(c.counters) {
		if n := s.counted[id]; n != 0 {
			names[name] = n
		}
	}
	return names
}
