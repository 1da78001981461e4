package keycache

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// maxTraced is the number of traced checks of one resolve: the first one's span is the parent, the
// others are linked. Smaller loses resolves from traces; larger makes spans larger.
const maxTraced = 8

// noteTrace has the next batch of the load continue the trace of a check, if its span is recorded.
// c.mu is held.
func (l *load) noteTrace(span trace.Span) {
	if span.IsRecording() && len(l.traced) < maxTraced {
		l.traced = append(l.traced, span)
	}
}

// collectTraces takes the spans of traced checks from the loads. c.mu is held.
func (b *batch) collectTraces() {
	for _, l := range b.loads {
		b.traced = append(b.traced, l.traced[:min(len(l.traced), maxTraced-len(b.traced))]...)
	}
}

// startSpan begins the span of a resolve as a child of the first traced check, and adds it to ctx. It
// records nothing if there is none.
func (b *batch) startSpan(ctx context.Context) (context.Context, trace.Span) {
	if len(b.traced) == 0 {
		return ctx, trace.SpanFromContext(ctx)
	}
	parent, links := b.traced[0], make([]trace.Link, 0, maxTraced)
	for _, other := range b.traced[1:] {
		links = append(links, trace.Link{SpanContext: other.SpanContext()})
	}
	tracer := parent.TracerProvider().Tracer("github.com/phantomrouter/phantom-authz/pkg/keycache")
	return tracer.Start(trace.ContextWithSpan(ctx, parent), "resolve", trace.WithLinks(links...),
		trace.WithAttributes(attribute.Int("phantom.digests", len(b.loads))))
}

// endSpan ends the span of a resolve.
func endSpan(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}
