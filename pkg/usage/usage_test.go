package usage_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
	"github.com/phantomrouter/phantom-authz/pkg/usage"
)

func name() string { return "s" }

// keyAPI is a KeyAPI that stores the reports.
type keyAPI struct {
	mu      sync.Mutex
	err     error
	reports []sidecarapi.UsageRequest
	at      []time.Time
}

func (k *keyAPI) Usage(_ context.Context, r sidecarapi.UsageRequest) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reports, k.at = append(k.reports, r), append(k.at, time.Now())
	return k.err
}

// sent returns the reports and their times.
func (k *keyAPI) sent() ([]sidecarapi.UsageRequest, []time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.reports), slices.Clone(k.at)
}

func digest(i int) (d credential.Digest) {
	d[0], d[1], d[2] = byte(i), byte(i>>8), byte(i>>16)
	return d
}

// run runs a recorder in a synctest bubble until f returns.
func run(t *testing.T, k *keyAPI, f func(r *usage.Recorder)) {
	synctest.Test(t, func(t *testing.T) {
		r := usage.New(k, name, zap.NewNop(), prometheus.NewRegistry())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = r.Run(ctx) }()
		f(r)
		cancel()
		<-done
	})
}

func TestReportsOnceAMinute(t *testing.T) {
	k := &keyAPI{}
	run(t, k, func(r *usage.Recorder) {
		begin := time.Now()
		for i := range 5 {
			r.Used(digest(1), i > 0, begin.Add(time.Duration(i)*time.Second))
		}
		r.Used(digest(1), true, begin) // out of order
		r.Used(digest(2), false, begin)
		<-time.After(75 * time.Second)
		reports, at := k.sent()
		if len(reports) != 1 || len(reports[0].Used) != 2 || reports[0].Sidecar != "s" {
			t.Fatalf("%+v", reports)
		}
		if late := at[0].Sub(begin); late < 45*time.Second || late > 75*time.Second {
			t.Errorf("after %v", late)
		}
		for _, u := range reports[0].Used {
			switch u.SHA256 {
			case digest(1).Hex():
				if u.Allowed != 5 || u.Denied != 1 || !u.LastUsedAt.Equal(begin.Add(4*time.Second)) {
					t.Errorf("%+v", u)
				}
			case digest(2).Hex():
				if u.Allowed != 0 || u.Denied != 1 {
					t.Errorf("%+v", u)
				}
			default:
				t.Errorf("%+v", u)
			}
		}
		<-time.After(10 * time.Minute)
		if reports, _ := k.sent(); len(reports) != 1 {
			t.Errorf("%d empty reports", len(reports)-1)
		}
		r.Used(digest(3), true, time.Now())
	})
	if len(k.reports) != 2 {
		t.Errorf("%d reports: want a last one at the stop", len(k.reports))
	}
}

func TestReportsHaveTheCurrentName(t *testing.T) {
	k := &keyAPI{}
	synctest.Test(t, func(t *testing.T) {
		var current atomic.Value
		current.Store("one")
		r := usage.New(k, func() string { return current.Load().(string) }, zap.NewNop(), prometheus.NewRegistry())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = r.Run(ctx) }()
		r.Used(digest(1), true, time.Now())
		current.Store("two")
		<-time.After(2 * time.Minute)
		cancel()
		<-done
	})
	if len(k.reports) != 1 || k.reports[0].Sidecar != "two" {
		t.Errorf("%+v", k.reports)
	}
}

func TestKeysAreBounded(t *testing.T) {
	k := &keyAPI{}
	run(t, k, func(r *usage.Recorder) {
		for i := range 300_000 {
			r.Used(digest(i), true, time.Now())
		}
	})
	sum := 0
	for _, report := range k.reports {
		if len(report.Used) > sidecarapi.MaxUsed {
			t.Errorf("a report of %d", len(report.Used))
		}
		sum += len(report.Used)
	}
	if sum < 50_000 || sum > 110_000 {
		t.Errorf("%d keys were kept", sum)
	}
}

func TestFailedReportsAreLost(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
	}{
		{errors.New("down"), 2},
		{sidecarapi.ErrNotOffered, 1},
	} {
		k := &keyAPI{err: tt.err}
		run(t, k, func(r *usage.Recorder) {
			r.Used(digest(1), true, time.Now())
			<-time.After(2 * time.Minute)
			r.Used(digest(1), true, time.Now())
			<-time.After(2 * time.Minute)
		})
		if len(k.reports) != tt.want {
			t.Errorf("%v: %d reports, want %d", tt.err, len(k.reports), tt.want)
		}
		if n := len(k.reports); n == 2 && k.reports[1].Used[0].Allowed != 1 {
			t.Errorf("a lost report was sent again: %+v", k.reports[1])
		}
	}
}

func BenchmarkUsed(b *testing.B) {
	r := usage.New(&keyAPI{}, name, zap.NewNop(), prometheus.NewRegistry())
	now := time.Now()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			r.Used(digest(i%1000), true, now)
		}
	})
}
