package keycache

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

func TestAcknowledgementAge(t *testing.T) {
	registry := prometheus.NewRegistry()
	bubble(t, func(o *Options) { o.Metrics = registry }, func(f *fixture) {
		age := func() time.Duration {
			return time.Duration(value(t, registry, "phantom_authz_acknowledgement_age_seconds") * float64(time.Second))
		}
		advance(time.Minute) // without a follower
		if got := age(); got < time.Minute {
			t.Errorf("before the first poll: %v", got)
		}
		f.start()
		if got := age(); got > time.Second {
			t.Errorf("after the first lease: %v", got)
		}
		advance(time.Minute)
		if got := age(); got > sidecarapi.MaxWait {
			t.Errorf("while polls are answered: %v", got)
		}
		f.api.set(func() { f.api.pollErr = errUnreachable })
		advance(10 * time.Minute)
		if got := age(); got < 9*time.Minute || got > 11*time.Minute {
			t.Errorf("10 minutes after the last answer: %v", got)
		}
	})
	registry = prometheus.NewRegistry()
	bubble(t, func(o *Options) { changesOptional(o); o.Metrics = registry }, func(f *fixture) {
		f.api.pollErr = sidecarapi.ErrNotOffered
		f.start()
		advance(10 * time.Minute)
		if got := value(t, registry, "phantom_authz_acknowledgement_age_seconds"); got != 0 {
			t.Errorf("in time-to-live mode: %v", got)
		}
	})
}

func TestApplicationIsTimed(t *testing.T) {
	registry := prometheus.NewRegistry()
	bubble(t, func(o *Options) { o.Metrics = registry }, func(f *fixture) {
		f.start()
		if got := value(t, registry, "phantom_authz_change_application_seconds"); got != 0 {
			t.Errorf("%v observations before a change", got)
		}
		f.api.changeAccount("a", credential.Terminated)
		synctest.Wait()
		if got := value(t, registry, "phantom_authz_change_application_seconds"); got != 1 {
			t.Errorf("%v observations after a change, want 1", got)
		}
	})
}

func TestEvictionsAreCountedByPool(t *testing.T) {
	registry := prometheus.NewRegistry()
	bubble(t, func(o *Options) { unlimited(o); o.Metrics, o.Known, o.Unknown = registry, 100, 10 }, func(f *fixture) {
		f.start()
		for i := range 15 {
			f.lookup("unknown" + strconv.Itoa(i))
		}
		if got := value(t, registry, "phantom_authz_cache_evictions_total", "unknown"); got != 5 {
			t.Errorf("%v evictions of unknown digests, want 5", got)
		}
		if got := value(t, registry, "phantom_authz_cache_evictions_total", "known"); got != 0 {
			t.Errorf("%v evictions of credentials, want 0", got)
		}
		if got := value(t, registry, "phantom_authz_cache_entries_limit", "unknown"); got != 10 {
			t.Errorf("limit %v, want 10", got)
		}
	})
}

func TestAdmissionIsCounted(t *testing.T) {
	registry := prometheus.NewRegistry()
	bubble(t, func(o *Options) { o.Metrics, o.Admission = registry, Admission{PerSecond: 1, Burst: 1} }, func(f *fixture) {
		f.start()
		f.lookup("first")                    // unknown: it uses the only token
		go f.Lookup(f.ctx, digest("second")) //nolint:errcheck // it is refused
		synctest.Wait()
		waiting, refused := value(t, registry, "phantom_authz_admission_waiting"), value(t, registry, "phantom_authz_admission_refused_total")
		if waiting != 1 || refused != 0 {
			t.Errorf("waiting %v, refused %v; want 1, 0", waiting, refused)
		}
		advance(admitWait + admitSpread)
		waiting, refused = value(t, registry, "phantom_authz_admission_waiting"), value(t, registry, "phantom_authz_admission_refused_total")
		if waiting != 0 || refused != 1 {
			t.Errorf("waiting %v, refused %v; want 0, 1", waiting, refused)
		}
	})
}
