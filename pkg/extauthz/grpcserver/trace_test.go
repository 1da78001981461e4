package grpcserver_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz/grpcserver"
)

const (
	parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-"
	traced = parent + "01"
	unseen = parent + "00" // not sampled
)

// tracerInto returns a tracer as pkg/tracing makes it.
func tracerInto(t testing.TB, processor sdk.SpanProcessor) trace.Tracer {
	t.Helper()
	provider := sdk.NewTracerProvider(sdk.WithSpanProcessor(processor), sdk.WithSampler(sdk.ParentBased(sdk.NeverSample())))
	t.Cleanup(func() {
		if err := provider.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return provider.Tracer("test")
}

func cachedChecker(src extauthz.Source) *extauthz.Checker {
	return extauthz.NewChecker(src, noUsage{}, &extauthz.Rules{CookieName: "s"}, extauthz.NewMetrics(prometheus.NewRegistry(), nil))
}

func TestSpansOfChecks(t *testing.T) {
	bearer := raw("authorization", "Bearer "+key.Reveal())
	open := map[string]string{"scope": ""}
	for _, tt := range []struct {
		name    string
		source  extauthz.Source
		message *authv3.CheckRequest
		pairs   []string // of metadata
		want    string   // of the span; "" for none
	}{
		{"hit", cached{newSource()}, message(open, bearer), []string{"traceparent", traced}, "hit ok Unset"},
		{"miss", newSource(), message(open, bearer), []string{"traceparent", traced, "tracestate", "a=b"}, "miss ok Unset"},
		{"no credential", newSource(), message(open, raw()), []string{"traceparent", traced}, "- no_credential Unset"},
		{"unavailable", panicking{}, message(open, bearer), []string{"traceparent", traced}, "miss unavailable Error"},
		{"not sampled", newSource(), message(open, bearer), []string{"traceparent", unseen}, ""},
		{"no trace", newSource(), message(open, bearer), nil, ""},
		{"invalid", newSource(), message(open, bearer), []string{"traceparent", "00-x"}, ""},
		{"twice", newSource(), message(open, bearer), []string{"traceparent", traced, "traceparent", traced}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			recorder := tracetest.NewSpanRecorder()
			check := grpcserver.DirectTraced(cachedChecker(tt.source), tracerInto(t, recorder))
			msg, err := proto.Marshal(tt.message)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := check(metadata.NewIncomingContext(t.Context(), metadata.Pairs(tt.pairs...)), msg)
			if err != nil {
				t.Fatal(err)
			}
			answer.Free()
			if started, ended := len(recorder.Started()), len(recorder.Ended()); started != ended {
				t.Errorf("%d spans began, %d ended", started, ended)
			}
			var got []string
			for _, s := range recorder.Ended() {
				got = append(got, spanText(s))
			}
			if strings.Join(got, "; ") != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// spanText returns whether the cache answered, the reason and the status of a check's span.
func spanText(s sdk.ReadOnlySpan) string {
	if s.Name() != "check" || s.Parent().SpanID().String() != "00f067aa0ba902b7" || s.SpanContext().TraceID().String() != "4bf92f3577b34da6a3ce929d0e0e4736" {
		return fmt.Sprintf("%s in another trace: %v", s.Name(), s.Parent())
	}
	hit, reason := "-", ""
	for _, a := range s.Attributes() {
		switch {
		case a.Key == "phantom.cache_hit" && a.Value.AsBool():
			hit = "hit"
		case a.Key == "phantom.cache_hit":
			hit = "miss"
		case a.Key == "phantom.reason":
			reason = a.Value.AsString()
		}
	}
	return strings.Join([]string{hit, reason, map[codes.Code]string{codes.Unset: "Unset", codes.Error: "Error"}[s.Status().Code]}, " ")
}

// asked is a context that records the types of the keys of which a value was read.
type asked struct {
	context.Context
	keys map[string]bool
}

func (a asked) Value(key any) any {
	a.keys[fmt.Sprintf("%T", key)] = true
	return a.Context.Value(key)
}

func TestNoMetadataIsReadWithoutTracing(t *testing.T) {
	msg, err := proto.Marshal(browserCheck())
	if err != nil {
		t.Fatal(err)
	}
	for _, tracer := range []trace.Tracer{nil, tracerInto(t, tracetest.NewSpanRecorder())} {
		ctx := asked{metadata.NewIncomingContext(t.Context(), metadata.Pairs("traceparent", traced)), map[string]bool{}}
		answer, err := grpcserver.DirectTraced(cachedChecker(cached{newSource()}), tracer)(ctx, msg)
		if err != nil {
			t.Fatal(err)
		}
		answer.Free()
		if read := ctx.keys["metadata.mdIncomingKey"]; read != (tracer != nil) {
			t.Errorf("traced %t, read %v", tracer != nil, ctx.keys)
		}
	}
}

// discard is an exporter without a collector.
type discard struct{}

func (discard) ExportSpans(context.Context, []sdk.ReadOnlySpan) error { return nil }
func (discard) Shutdown(context.Context) error                        { return nil }

// BenchmarkHitTraced measures a hit, from message to message, with tracing off, on in a trace that is not sampled, and on in a
// sampled one, whose span is recorded and queued. They take turns; the ratios are to "off" of the same turn.
func BenchmarkHitTraced(b *testing.B) {
	const hits = 2000 // of a turn
	msg, err := proto.Marshal(browserCheck())
	if err != nil {
		b.Fatal(err)
	}
	on := tracerInto(b, sdk.NewBatchSpanProcessor(discard{}))
	variants := []struct {
		name, header string
		tracer       trace.Tracer
	}{{"off", traced, nil}, {"unsampled", unseen, on}, {"sampled", traced, on}}
	turns := make([][]float64, len(variants)) // ns per hit
	for b.Loop() {
		for i, v := range variants {
			check := grpcserver.DirectTraced(cachedChecker(cached{newSource()}), v.tracer)
			ctx, cancel := context.WithTimeout(metadata.NewIncomingContext(b.Context(), metadata.Pairs(":authority", "authz", "traceparent", v.header)), time.Hour)
			began := time.Now()
			for range hits {
				answer, err := check(ctx, msg)
				if err != nil {
					b.Fatal(err)
				}
				answer.Free()
			}
			turns[i] = append(turns[i], float64(time.Since(began).Nanoseconds())/hits)
			cancel()
		}
	}
	for i, v := range variants[1:] {
		ratios := slices.Clone(turns[i+1])
		for n := range ratios {
			ratios[n] /= turns[0][n]
		}
		slices.Sort(ratios)
		b.ReportMetric(ratios[len(ratios)/2], v.name+"/off")
		b.ReportMetric(ratios[len(ratios)/4], v.name+"/off-q1")
		b.ReportMetric(ratios[len(ratios)*3/4], v.name+"/off-q3")
	}
	slices.Sort(turns[0])
	b.ReportMetric(turns[0][len(turns[0])/2], "off-ns/hit")
}
