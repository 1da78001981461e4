package keycache

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// tracedLookups looks up the names at the same time, each in a trace of its own, and returns the spans of the checks.
func (f *fixture) tracedLookups(provider trace.TracerProvider, names []string) []trace.SpanContext {
	var wg sync.WaitGroup
	checks := make([]trace.SpanContext, len(names))
	for i, name := range names {
		ctx, span := provider.Tracer("test").Start(context.Background(), "check")
		checks[i] = span.SpanContext()
		wg.Go(func() {
			defer span.End()
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			_, _, _ = f.Lookup(ctx, digest(name))
		})
	}
	wg.Wait()
	return checks
}

// resolvesOf returns the ended spans named resolve.
func resolvesOf(recorder *tracetest.SpanRecorder) (list []sdk.ReadOnlySpan) {
	for _, s := range recorder.Ended() {
		if s.Name() == "resolve" {
			list = append(list, s)
		}
	}
	return list
}

// traceWith runs a test with a provider that samples by the function, and its spans.
func traceWith(t *testing.T, sampler sdk.Sampler, test func(f *fixture, provider *sdk.TracerProvider, recorder *tracetest.SpanRecorder)) {
	bubble(t, unlimited, func(f *fixture) {
		f.start()
		advance(time.Second)
		recorder := tracetest.NewSpanRecorder()
		test(f, sdk.NewTracerProvider(sdk.WithSpanProcessor(recorder), sdk.WithSampler(sampler)), recorder)
	})
}

func TestSharedResolveIsInOneTraceAndLinksOthers(t *testing.T) {
	for _, checks := range []int{1, 2, maxTraced, maxTraced + 5} {
		traceWith(t, sdk.AlwaysSample(), func(f *fixture, provider *sdk.TracerProvider, recorder *tracetest.SpanRecorder) {
			of := map[trace.SpanID]bool{}
			for _, check := range f.tracedLookups(provider, names(fmt.Sprint(checks, "-"), checks)) {
				of[check.SpanID()] = true
			}
			resolves := resolvesOf(recorder)
			if len(resolves) != 1 || !of[resolves[0].Parent().SpanID()] || len(resolves[0].Links()) != min(checks, maxTraced)-1 {
				t.Fatalf("%d checks: %+v", checks, resolves)
			}
			delete(of, resolves[0].Parent().SpanID())
			for _, link := range resolves[0].Links() {
				if !of[link.SpanContext.SpanID()] {
					t.Errorf("%d checks: the link is not another check's", checks)
				}
				delete(of, link.SpanContext.SpanID())
			}
		})
	}
}

func TestTracedCheckJoinsALoadOfAnother(t *testing.T) {
	traceWith(t, sdk.AlwaysSample(), func(f *fixture, provider *sdk.TracerProvider, recorder *tracetest.SpanRecorder) {
		first := make(chan string)
		go func() { first <- f.lookup("good") }() // without a trace
		advance(batchWindow / 2)
		checks := f.tracedLookups(provider, []string{"good"})
		<-first
		if resolves := resolvesOf(recorder); len(resolves) != 1 || resolves[0].Parent().SpanID() != checks[0].SpanID() {
			t.Errorf("%+v", resolves)
		}
	})
}

func TestUnsampledChecksHaveNoResolveSpan(t *testing.T) {
	traceWith(t, sdk.NeverSample(), func(f *fixture, provider *sdk.TracerProvider, recorder *tracetest.SpanRecorder) {
		f.tracedLookups(provider, names("n", 3))
		if ended := recorder.Ended(); len(ended) != 0 {
			t.Errorf("%+v", ended)
		}
	})
}

func TestFailedResolveHasErrorStatus(t *testing.T) {
	traceWith(t, sdk.AlwaysSample(), func(f *fixture, provider *sdk.TracerProvider, recorder *tracetest.SpanRecorder) {
		f.api.disconnect()
		f.tracedLookups(provider, []string{"good"})
		if resolves := resolvesOf(recorder); len(resolves) != 1 || resolves[0].Status().Code != codes.Error {
			t.Errorf("%+v", resolves)
		}
	})
}
