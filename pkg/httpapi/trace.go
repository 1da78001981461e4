package httpapi

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// traceHeaders reads and writes traceparent and tracestate (W3C Trace Context).
var traceHeaders propagation.TraceContext

// propagate adds the headers of ctx's trace, if it has one.
func propagate(ctx context.Context, h http.Header) {
	traceHeaders.Inject(ctx, propagation.HeaderCarrier(h))
}

// startSpan begins the span of a request, if its headers have a sampled trace and the API is traced.
// The request that it returns has the span in its context.
func (e *endpoint[C]) startSpan(r *http.Request) (*http.Request, trace.Span) {
	if e.api.Tracer == nil {
		return r, noop.Span{}
	}
	ctx := traceHeaders.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		return r, noop.Span{}
	}
	ctx, span := e.api.Tracer.Start(ctx, e.label(r.Method), trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(attribute.String("phantom.side", e.api.Side), attribute.String("http.route", e.path)))
	return r.WithContext(ctx), span
}

// noteStatus adds the status of the response to a request's span.
func noteStatus(span trace.Span, status int) {
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(attribute.Int("http.response.status_code", status))
	if status >= http.StatusInternalServerError {
		span.SetStatus(codes.Error, http.StatusText(status))
	}
}
