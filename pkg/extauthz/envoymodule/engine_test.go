package envoymodule

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

const origin = "https://app.phantomrouter.ai"

var (
	chatKey        = credential.Mint(credential.Key).Reveal()
	plainKey       = credential.Mint(credential.Key).Reveal()
	unknownKey     = credential.Mint(credential.Key).Reveal()
	revokedKey     = credential.Mint(credential.Key).Reveal()
	expiredKey     = credential.Mint(credential.Key).Reveal()
	terminatedKey  = credential.Mint(credential.Key).Reveal()
	limitedKey     = credential.Mint(credential.Key).Reveal()
	unavailableKey = credential.Mint(credential.Key).Reveal()
	session        = credential.Mint(credential.Session).Reveal()
	endedSession   = credential.Mint(credential.Session).Reveal()
)

// facts is a Source of fixed records. With misses, Cached leaves each digest to Lookup.
type facts struct {
	misses bool
	gate   chan struct{}   // Lookup returns when it is open or its context ends; nil is open
	panics map[string]bool // by method
}

var records = func() map[credential.Digest]credential.Record {
	record := func(kind credential.Kind, id string, state, account credential.State, scopes ...string) credential.Record {
		return credential.Record{
			Kind: kind, ID: id, State: state, Scopes: credential.NewScopes(scopes...),
			Account: credential.Account{ID: "acc_1", State: account},
		}
	}
	expired := record(credential.Key, "key_expired", credential.Active, credential.Active)
	expired.ExpiresAt = time.Unix(1, 0)
	return map[credential.Digest]credential.Record{
		digest(chatKey):       record(credential.Key, "key_chat", credential.Active, credential.Active, "z", "chat:companion"),
		digest(plainKey):      record(credential.Key, "key_plain", credential.Active, credential.Active),
		digest(revokedKey):    record(credential.Key, "key_revoked", credential.Revoked, credential.Active, "z"),
		digest(terminatedKey): record(credential.Key, "key_terminated", credential.Active, credential.Terminated),
		digest(session):       record(credential.Session, "ses_1", credential.Active, credential.Active, "z"),
		digest(endedSession):  record(credential.Session, "ses_2", credential.Revoked, credential.Active),
		digest(expiredKey):    expired,
	}
}()

func digest(s string) credential.Digest { return credential.NewSecret(s).Digest() }

func (f *facts) Cached(d credential.Digest) (rec credential.Record, found, known bool) {
	if f.panics["Cached"] {
		panic("a secret of Cached")
	}
	if f.misses || d == digest(limitedKey) || d == digest(unavailableKey) {
		return credential.Record{}, false, false
	}
	rec, found = records[d]
	return rec, found, true
}

func (f *facts) Lookup(ctx context.Context, d credential.Digest) (credential.Record, bool, error) {
	if f.panics["Lookup"] {
		panic("a secret of Lookup")
	}
	if f.gate != nil {
		select {
		case <-f.gate:
		case <-ctx.Done():
			return credential.Record{}, false, ctx.Err()
		}
	}
	switch d {
	case digest(limitedKey):
		return credential.Record{}, false, credential.ErrRateLimited
	case digest(unavailableKey):
		return credential.Record{}, false, errors.New("down")
	}
	rec, found := records[d]
	return rec, found, nil
}

// Used implements extauthz.Usage.
func (f *facts) Used(credential.Digest, bool, time.Time) {
	if f.panics["Used"] {
		panic("a secret of Used")
	}
}

// engine is an Engine whose parts a test can break.
type engine struct {
	*facts
	rules    *extauthz.Rules
	registry *prometheus.Registry
	metrics  *extauthz.Metrics
	log      *observer.ObservedLogs
	config   configHandle
	limit    time.Duration // of a check that waits
	released int
	module   Module
}

func newEngine(t testing.TB) *engine {
	t.Helper()
	table, err := policy.NewEndpoints([]policy.Endpoint{
		{Path: "/me", Requirement: policy.NewRequirement(policy.Any, "")},
		{Path: "/chat", Requirement: policy.NewRequirement(policy.Any, "chat:companion")},
		{Path: "/key", Requirement: policy.NewRequirement(policy.KeyOnly, "")},
		{Path: "/session", Requirement: policy.NewRequirement(policy.SessionOnly, "")},
	})
	if err != nil {
		t.Fatal(err)
	}
	e := &engine{
		facts: &facts{panics: map[string]bool{}},
		rules: &extauthz.Rules{
			SessionScopes: credential.NewScopes("chat:companion"), Endpoints: table, Origin: origin, CookieName: "phantom_session",
			KeyAPITimeout: 400 * time.Millisecond,
		},
		registry: prometheus.NewRegistry(),
		limit:    500 * time.Millisecond,
	}
	panics := prometheus.NewCounter(prometheus.CounterOpts{Name: "phantom_authz_panics_total"})
	e.registry.MustRegister(panics)
	e.metrics = extauthz.NewMetrics(e.registry, panics)
	core, log := observer.New(zapcore.DebugLevel)
	e.log = log
	e.module = Module{
		Open: func([]byte) (*Engine, error) {
			return &Engine{
				Checker: extauthz.NewChecker(e.facts, e.facts, e.rules, e.metrics),
				Timeout: func() time.Duration { return e.limit },
				Log:     zap.New(core),
				Release: func() { e.released++ },
			}, nil
		},
		Route: func([]byte) (extauthz.RouteRequirement, error) { return extauthz.RouteRequirement{Set: true}, nil },
	}
	return e
}

// factory makes the filters of the engine. Its rules are fixed from now on.
func (e *engine) factory(t testing.TB) *factory {
	t.Helper()
	made, err := e.module.Create(&e.config, nil)
	if err != nil {
		t.Fatal(err)
	}
	return made.(*factory)
}

// panicCount returns how many panics were counted.
func (e *engine) panicCount(t *testing.T) int {
	t.Helper()
	families, err := e.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "phantom_authz_panics_total" {
			return int(family.GetMetric()[0].GetCounter().GetValue())
		}
	}
	t.Fatal("no counter of panics")
	return 0
}
