package extauthz

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/policy"
	"github.com/phantomrouter/phantom-authz/pkg/telemetry"
)

// BenchmarkObserve measures what a check pays for its histogram: classic buckets alone are the baseline of native ones.
func BenchmarkObserve(b *testing.B) {
	classic := prometheus.HistogramOpts{Name: "h", Buckets: []float64{5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1}}
	for name, o := range map[string]prometheus.HistogramOpts{"classic": classic, "native": telemetry.Native(classic)} {
		b.Run(name, func(b *testing.B) {
			h := prometheus.NewHistogram(o)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					h.Observe(float64(10+i%32) * 1e-6)
				}
			})
		})
	}
}

// waitingSource reports when it is called, and waits.
type waitingSource struct{ called, proceed chan struct{} }

func (s waitingSource) Lookup(context.Context, credential.Digest) (rec credential.Record, found bool, err error) {
	close(s.called)
	<-s.proceed
	return rec, false, nil
}

func (s waitingSource) Cached(credential.Digest) (rec credential.Record, found, known bool) {
	return rec, false, false
}

func TestChecksInFlight(t *testing.T) {
	registry := prometheus.NewRegistry()
	source := waitingSource{make(chan struct{}), make(chan struct{})}
	c := NewChecker(source, nil, &Rules{}, NewMetrics(registry, nil))
	want := func(event string, want float64) {
		t.Helper()
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			if got := family.GetMetric()[0].GetGauge().GetValue(); family.GetName() == "phantom_authz_checks_in_flight" && got != want {
				t.Errorf("%s: %v in flight, want %v", event, got, want)
			}
		}
	}
	want("before", 0)
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		c.Check(context.Background(), &Request{Authorization: []string{"Bearer foreign"}})
	}()
	<-source.called
	want("during a look-up", 1)
	close(source.proceed)
	<-answered
	want("after", 0)
}

// A check observes its time in the native histogram too.
func TestDurationsAreNative(t *testing.T) {
	registry := prometheus.NewRegistry()
	NewMetrics(registry, nil).observe(policy.Deny(policy.NoCredential), false, time.Millisecond)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if h := m.GetHistogram(); h != nil && h.GetSampleCount() == 1 && (len(h.GetPositiveSpan()) == 0 || len(h.GetBucket()) == 0) {
				t.Errorf("%s has native spans %v and classic buckets %v", family.GetName(), h.GetPositiveSpan(), h.GetBucket())
			}
		}
	}
}
