package grpcserver

import (
	"context"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	grpcmetadata "google.golang.org/grpc/metadata"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// incoming is the gRPC metadata of a check, in which Envoy sends traceparent and tracestate.
type incoming struct{ ctx context.Context }

// Get implements propagation.TextMapCarrier.
func (m incoming) Get(name string) string {
	return strings.Join(grpcmetadata.ValueFromIncomingContext(m.ctx, name), ",")
}

// Set implements propagation.TextMapCarrier.
func (incoming) Set(string, string) {}

// Keys implements propagation.TextMapCarrier.
func (incoming) Keys() []string { return nil }

// decideTraced decides a check in a span, if Envoy's trace is sampled. The answer ends the span.
func (h *handler) decideTraced(ctx context.Context, x *exchange) {
	ctx = propagation.TraceContext{}.Extract(ctx, incoming{ctx})
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		x.outcome = h.checker.Decide(ctx, &x.Request)
		return
	}
	ctx, x.span = h.tracer.Start(ctx, "check", trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(x.Arrived))
	outcome, hit := h.checker.Begin(&x.Request)
	if outcome.LooksUp() {
		x.span.SetAttributes(attribute.Bool("phantom.cache_hit", hit))
	}
	if !hit {
		outcome.Finish(ctx)
	}
	x.outcome = outcome
}

// endSpan ends the span of a check, if it has one. The attributes are those of the access log.
func (x *exchange) endSpan(a *extauthz.Answer) {
	if x.span == nil {
		return
	}
	for _, of := range []struct{ name, value string }{
		{"phantom.decision", a.Meta.Decision},
		{"phantom.shadow_decision", a.Meta.ShadowDecision},
		{"phantom.reason", a.Meta.Reason},
		{"phantom.principal", a.Meta.Principal},
		{"phantom.account_id", a.Meta.AccountID},
		{"phantom.credential_id", a.Meta.CredentialID},
	} {
		if of.value != "" {
			x.span.SetAttributes(attribute.String(of.name, of.value))
		}
	}
	if !a.Allow && a.Status >= 500 {
		x.span.SetStatus(codes.Error, a.Meta.Reason)
	}
	x.span.End()
	x.span = nil
}
