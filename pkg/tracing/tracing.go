// Package tracing exports the spans of a program over OTLP. It is the only package that links the
// OpenTelemetry SDK: the others use the API, and record a span only if the caller's trace is sampled.
//
// A sampler that follows the caller continues traces and begins none, so Envoy's sampling is the only
// knob. A span that ends goes to a bounded queue without a wait; a goroutine sends the queue in
// batches. A queue that is full and a collector that does not answer cost spans, which are counted,
// and nothing else.
package tracing

import (
	"context"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/phantomrouter/phantom-authz/pkg/daemon"
)

const (
	// maxQueued is the number of spans that have ended and are not exported. Smaller drops spans in
	// bursts; larger costs memory, about 2 KiB for each, while the collector is away.
	maxQueued = 4096
	// maxBatch is the number of spans of one request. Smaller sends more requests; larger ones may be
	// too large for a collector (4 MiB by default).
	maxBatch = 512
	// batchInterval is the longest time that a span waits in the queue. Smaller sends more requests;
	// larger shows spans later and loses more of them in a crash.
	batchInterval = time.Second
	// exportTimeout is the time limit of one batch, retries included. Smaller drops spans while a
	// collector restarts; larger lets the queue fill meanwhile.
	exportTimeout = 5 * time.Second
	// flushTimeout is the time limit of the last export. Larger delays the stop while the collector is
	// away; smaller drops the last spans of a slow one.
	flushTimeout = 2 * time.Second
	// warnInterval is the time between two log lines about failures. Smaller fills the log; larger
	// makes a continuing failure look like a past one.
	warnInterval = time.Minute
)

// tracesPath is appended to the configured URL (OTLP specification, OTLP/HTTP).
const tracesPath = "/v1/traces"

// Options of Start.
type Options struct {
	// Name and Version of the service in the spans.
	Name, Version string
	// OTLP is the base URL of the collector, http or https, without /v1/traces. nil means no tracing.
	OTLP *url.URL
	// Metrics is the prefix of the names of the metrics.
	Metrics string
}

// Start returns the tracer of a program, and nil without Options.OTLP. It adds the component that
// exports the spans: it must be the first of the stack, so that it is stopped last and receives the
// spans of all others. It opens no connection. The environment variables of OpenTelemetry apply for
// what is not in the options: OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_CERTIFICATE,
// OTEL_RESOURCE_ATTRIBUTES and others.
func Start(rt *daemon.Runtime, o Options) (trace.Tracer, error) {
	q := newQueue(rt, o.Metrics)
	if o.OTLP == nil {
		return nil, nil //nolint:nilnil // nil is the tracer of a program that does not trace
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(q.failed))
	// By default the SDK writes text to stderr, which is for JSON lines.
	otel.SetLogger(funcr.New(func(_, args string) { rt.Log.Warn("message of OpenTelemetry", zap.String("text", args)) }, funcr.Options{}))
	client := otlptracehttp.NewClient(clientOptions(o.OTLP)...)
	exporter, err := otlptrace.New(context.Background(), client)
	if err != nil {
		return nil, err
	}
	of, err := resource.New(context.Background(),
		resource.WithAttributes(attribute.String("service.name", o.Name), attribute.String("service.version", o.Version)),
		resource.WithHost(), resource.WithFromEnv())
	if err != nil {
		rt.Log.Warn("resource attributes of spans are incomplete", zap.Error(err))
	}
	q.exporter = exporter
	q.SpanProcessor = sdk.NewBatchSpanProcessor(q.counted(), sdk.WithMaxQueueSize(maxQueued), sdk.WithMaxExportBatchSize(maxBatch),
		sdk.WithBatchTimeout(batchInterval), sdk.WithExportTimeout(exportTimeout))
	provider := sdk.NewTracerProvider(sdk.WithResource(of), sdk.WithSpanProcessor(q), sdk.WithSampler(sdk.ParentBased(sdk.NeverSample())))
	rt.Add(daemon.Component{Name: "tracing", Stop: func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, flushTimeout)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			rt.Log.Warn("last spans were not exported", zap.Error(err))
		}
		return nil
	}})
	rt.Log.Info("tracing", zap.String("otlp", o.OTLP.Redacted()))
	return provider.Tracer("github.com/phantomrouter/phantom-authz"), nil
}

func clientOptions(u *url.URL) []otlptracehttp.Option {
	options := []otlptracehttp.Option{
		otlptracehttp.WithEndpoint(u.Host),
		otlptracehttp.WithURLPath(strings.TrimRight(u.Path, "/") + tracesPath),
		otlptracehttp.WithTimeout(exportTimeout),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{
			Enabled: true, InitialInterval: 500 * time.Millisecond, MaxInterval: 2 * time.Second, MaxElapsedTime: exportTimeout,
		}),
	}
	if u.Scheme == "http" {
		options = append(options, otlptracehttp.WithInsecure())
	}
	return options
}

// queue is the batch processor of the SDK with a bound of its own, because the SDK does not say how
// many spans it drops: this bound is reached first.
type queue struct {
	sdk.SpanProcessor
	exporter sdk.SpanExporter
	waiting  atomic.Int64 // spans that have ended and are neither exported nor dropped
	exported prometheus.Counter
	dropped  prometheus.Counter
	log      *zap.Logger
	warn     rate.Sometimes
}

func newQueue(rt *daemon.Runtime, prefix string) *queue {
	q := &queue{
		exported: prometheus.NewCounter(prometheus.CounterOpts{
			Name: prefix + "_spans_exported_total",
			Help: "Spans that the collector has accepted.",
		}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: prefix + "_spans_dropped_total",
			Help: "Spans that were dropped, because the collector did not accept them or the queue was full.",
		}),
		log:  rt.Log,
		warn: rate.Sometimes{First: 1, Interval: warnInterval},
	}
	rt.Metrics.MustRegister(q.exported, q.dropped)
	return q
}

// OnEnd implements sdk.SpanProcessor. It never waits.
func (q *queue) OnEnd(span sdk.ReadOnlySpan) {
	if q.waiting.Add(1) > maxQueued {
		q.waiting.Add(-1)
		q.dropped.Inc()
		return
	}
	q.SpanProcessor.OnEnd(span)
}

// counted returns the exporter with counters.
func (q *queue) counted() sdk.SpanExporter { return countedExporter{q} }

type countedExporter struct{ q *queue }

// ExportSpans implements sdk.SpanExporter. It reports an error itself, at most once per warnInterval.
func (e countedExporter) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	err := e.q.exporter.ExportSpans(ctx, spans)
	e.q.waiting.Add(-int64(len(spans)))
	if err != nil {
		e.q.dropped.Add(float64(len(spans)))
		e.q.failed(err)
		return nil
	}
	e.q.exported.Add(float64(len(spans)))
	return nil
}

// Shutdown implements sdk.SpanExporter.
func (e countedExporter) Shutdown(ctx context.Context) error { return e.q.exporter.Shutdown(ctx) }

// failed logs a failure of the SDK or of the exporter.
func (q *queue) failed(err error) {
	q.warn.Do(func() { q.log.Warn("export of spans failed: they are dropped", zap.Error(err)) })
}
