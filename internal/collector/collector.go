// Package collector is an OpenTelemetry collector for tests. It accepts OTLP over HTTP, as protobuf, and keeps all spans.
package collector

import (
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"

	otlp "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Span is one span with the name of its service.
type Span struct {
	Service string
	*tracepb.Span
}

// ID returns the span's id in hexadecimal.
func (s Span) ID() string { return hex.EncodeToString(s.GetSpanId()) }

// Parent returns the id of the span's parent, "" without one.
func (s Span) Parent() string { return hex.EncodeToString(s.GetParentSpanId()) }

// Attribute returns an attribute, nil without one.
func (s Span) Attribute(name string) *common.AnyValue { return find(s.GetAttributes(), name) }

func find(list []*common.KeyValue, name string) *common.AnyValue {
	for _, kv := range list {
		if kv.GetKey() == name {
			return kv.GetValue()
		}
	}
	return nil
}

// Collector receives spans until Close. It is safe for concurrent use.
type Collector struct {
	server *httptest.Server

	mu    sync.Mutex
	spans []Span
	raw   []byte
}

// Start starts a collector at a loopback address.
func Start() *Collector {
	c := &Collector{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", c.receive)
	c.server = httptest.NewServer(mux)
	return c
}

// URL returns the base URL for exporters.
func (c *Collector) URL() string { return c.server.URL }

// Address returns HOST:PORT.
func (c *Collector) Address() string { return c.server.Listener.Addr().String() }

// Close stops the collector.
func (c *Collector) Close() {
	c.server.CloseClientConnections()
	c.server.Close()
}

func (c *Collector) receive(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	request := new(otlp.ExportTraceServiceRequest)
	if err == nil {
		err = proto.Unmarshal(body, request)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw = append(c.raw, body...)
	for _, resource := range request.GetResourceSpans() {
		service := find(resource.GetResource().GetAttributes(), "service.name").GetStringValue()
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				c.spans = append(c.spans, Span{service, span})
			}
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// Trace returns the spans of a trace that have arrived, by its id in hexadecimal.
func (c *Collector) Trace(id string) []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Span
	for _, s := range c.spans {
		if hex.EncodeToString(s.GetTraceId()) == id {
			all = append(all, s)
		}
	}
	return all
}

// Spans returns all spans that have arrived.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Span(nil), c.spans...)
}

// Raw returns the bytes of all requests.
func (c *Collector) Raw() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]byte(nil), c.raw...)
}
