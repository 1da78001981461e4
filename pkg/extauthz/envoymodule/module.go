// Package envoymodule is the transport of extauthz inside Envoy: an HTTP filter of a dynamic module
// (envoy.extensions.filters.http.dynamic_modules.v3). Envoy calls it in its worker threads.
//
// module.go makes filters from Envoy's configuration, filter.go handles one stream, request.go reads
// its headers and answer.go applies the answer. The SDK is used through its interfaces only; the
// program that imports its C part is cmd/module.
//
// # Algorithm and cost
//
// A check that the cache can answer is decided in OnRequestHeaders, without a goroutine, a timer or a
// wait. Headers are read in two calls of Envoy and not copied. Any other check stops the stream,
// waits for the look-up in a goroutine and continues in the worker by the SDK's scheduler. A worker
// thus never waits for the key API. While a stream waits, Envoy stops to read its body at the buffer
// limit of the connection (StopAllAndWatermark): an upload is neither buffered whole nor rejected
// with 413. At most maxWaiting streams of one configuration wait; others are answered with 503.
//
// # Failures
//
// The SDK lets a request pass if there is no factory or no filter, and a panic that reaches C ends
// Envoy. So every function that the SDK calls, and every goroutine, recovers. A panic is counted and
// answered with 503, a configuration with a mistake is an error, and no function returns nil without
// one.
package envoymodule

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/envoyproxy/envoy/source/extensions/dynamic_modules/sdk/go/shared"
	"go.uber.org/zap"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

// Name is the filter_name in Envoy's configuration.
const Name = "phantom_authz"

// maxWaiting is the number of streams of one configuration that wait for a look-up. Larger costs
// memory and goroutines while the key API hangs; smaller answers 503 in a burst of misses. It is the
// same as max_requests of the cluster authz in envoy.yaml.
const maxWaiting = 8192

// Engine is what the filters of one configuration use.
type Engine struct {
	Checker *extauthz.Checker
	// Timeout returns the time limit of a check that waits for a look-up.
	Timeout func() time.Duration
	Log     *zap.Logger
	// Release is called once, when Envoy has destroyed the configuration and all its filters.
	Release func()
}

// Module makes the filters and the requirements of routes from Envoy's configuration. Its functions
// do not retain the bytes. An error rejects Envoy's configuration; it has one line for each mistake.
type Module struct {
	// Open returns the engine of a filter_config. It is called in Envoy's main thread.
	Open func(filterConfig []byte) (*Engine, error)
	// Route returns the requirement in a route's filter_config.
	Route func(filterConfig []byte) (extauthz.RouteRequirement, error)
}

// Factories returns what the SDK registers.
func (m Module) Factories() map[string]shared.HttpFilterConfigFactory {
	return map[string]shared.HttpFilterConfigFactory{Name: m}
}

var _ shared.HttpFilterConfigFactory = Module{}

// Create implements shared.HttpFilterConfigFactory.
func (m Module) Create(handle shared.HttpFilterConfigHandle, filterConfig []byte) (f shared.HttpFilterFactory, err error) {
	var made *factory
	defer func() {
		if value := recover(); value != nil {
			f, err = nil, panicError(value)
		}
		if err != nil && made != nil {
			made.OnDestroy()
		}
	}()
	engine, err := m.Open(jsonOf(filterConfig))
	if err != nil {
		return nil, err
	}
	made = &factory{
		Engine: *engine,
		panics: rate.Sometimes{First: linesFirst, Interval: linesEvery},
	}
	if made.counters, err = defineCounters(handle); err != nil {
		return nil, err
	}
	return made, nil
}

// route is the configuration of a route.
type route struct{ required policy.Requirement }

// CreatePerRoute implements shared.HttpFilterConfigFactory. It returns a *route.
func (m Module) CreatePerRoute(filterConfig []byte) (config any, err error) {
	defer func() {
		if value := recover(); value != nil {
			config, err = nil, panicError(value)
		}
	}()
	requirement, err := m.Route(jsonOf(filterConfig))
	if err != nil {
		return nil, err
	}
	return &route{requirement.Parse()}, nil
}

// jsonOf returns a copy of a filter_config. Envoy passes a Struct as JSON, but 1.38 passes that of a
// route as the bytes of the message, which begin with the tag of Struct.fields. Bytes that are more
// than a Struct stay as they are, so that no part of them is lost.
func jsonOf(filterConfig []byte) []byte {
	var message structpb.Struct
	if bytes.HasPrefix(filterConfig, []byte{structTag}) && known.Unmarshal(filterConfig, &message) == nil && proto.Size(&message) == len(filterConfig) {
		if text, err := message.MarshalJSON(); err == nil {
			return text
		}
	}
	return bytes.Clone(filterConfig)
}

// known reads the fields of a message that its type has.
var known = proto.UnmarshalOptions{DiscardUnknown: true}

// structTag is the tag of Struct.fields (google/protobuf/struct.proto): field 1 of the wire type of
// messages. As text it is a line feed.
const structTag = 1<<3 | 2

// panicError returns the error of a panic. It holds the text only of a runtime error, because any
// other may hold a secret.
func panicError(value any) error {
	if err, ok := value.(runtime.Error); ok {
		return fmt.Errorf("panic: %w", err)
	}
	return fmt.Errorf("panic: %T", value)
}

// Stream is what a filter uses of Envoy's side of a stream.
type Stream interface {
	shared.HttpFilterHandle
	// SetMetadataString is SetMetadata for a string, which it does not convert to an interface.
	SetMetadataString(namespace, key, value string)
}

// factory makes the filters of one configuration.
type factory struct {
	Engine
	counters counters
	waiting  atomic.Int64 // streams that wait for a look-up
	panics   rate.Sometimes
}

// Create implements shared.HttpFilterFactory. It does nothing that can panic: without a filter the
// SDK would let the request pass.
func (f *factory) Create(handle shared.HttpFilterHandle) shared.HttpFilter {
	made := filters.Get().(*filter)
	made.factory = f
	made.handle, _ = handle.(Stream) // another handle leaves nil: each call panics, and the stream stays stopped
	return made
}

// OnDestroy implements shared.HttpFilterFactory.
func (f *factory) OnDestroy() {
	defer f.recovered()
	f.Release()
}

// Refuse counts a panic of what connects the stream with Envoy, and answers the stream with 503.
func (f *factory) Refuse(stream shared.HttpFilterHandle, panicked any) {
	f.panicked(panicked)
	f.Create(stream).(*filter).refuse()
}

// recovered recovers a panic of the function that defers it.
func (f *factory) recovered() {
	if value := recover(); value != nil {
		f.panicked(value)
	}
}

// The first linesFirst lines of panics are logged, then one in each period of linesEvery. More lines
// cost log storage in an attack; fewer hide that there are several causes.
const (
	linesFirst = 3
	linesEvery = 10 * time.Second
)

// panicked counts and logs a recovered panic. The deferred function must call it, so that the stack
// is still that of the panic. The stack is without arguments, which may hold parts of a credential.
func (f *factory) panicked(value any) {
	f.Checker.Metrics().Panics.Inc()
	due := false
	f.panics.Do(func() { due = true }) // the log is written without its lock
	if due {
		f.Log.Error("check panicked: answered as unavailable", zap.Error(panicError(value)), zap.Stack("stack"))
	}
}

var errCounters = errors.New("define Envoy's counters: refused")

// counters are Envoy's own counters of checks, by reason.
type counters map[string]shared.MetricID

// defineCounters defines phantom_authz.checks.REASON for each reason.
func defineCounters(handle shared.HttpFilterConfigHandle) (counters, error) {
	ids := make(counters)
	for _, reason := range policy.Reasons() {
		id, result := handle.DefineCounter(Name + ".checks." + reason.String())
		if result != shared.MetricsSuccess {
			return nil, errCounters
		}
		ids[reason.String()] = id
	}
	return ids, nil
}
