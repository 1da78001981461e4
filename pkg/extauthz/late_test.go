package extauthz_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// stalled is a Source that ignores its context, as if the process were frozen.
type stalled struct {
	*facts
	lasts time.Duration
}

func (s stalled) Cached(credential.Digest) (rec credential.Record, found, known bool) {
	return credential.Record{}, false, false
}

func (s stalled) Lookup(ctx context.Context, d credential.Digest) (credential.Record, bool, error) {
	<-time.After(s.lasts)
	return s.facts.Lookup(ctx, d)
}

// An allow after the limit is answered as unavailable, in whichever step the time was spent.
func TestLateAllowIsUnavailable(t *testing.T) {
	const second = time.Second
	for _, tt := range []struct {
		name                     string
		timeout                  time.Duration // of the key API
		before, lookup, answered time.Duration // how long each part took
		allowed                  bool
	}{
		{"immediate", 0, 0, 0, 0, true},
		{"at the limit", 0, 0, second, 0, true},
		{"slow look-up", 0, 0, second + 1, 0, false},
		{"slow in total", 0, 400 * time.Millisecond, 400 * time.Millisecond, 201 * time.Millisecond, false},
		{"frozen before", 0, 2 * second, 0, 0, false},
		{"frozen after", 0, 0, 0, 2 * second, false},
		{"default timeout", 400 * time.Millisecond, 0, second + 1, 0, false},
		{"long timeout", 3 * second, 0, 6 * second, 0, true},
		{"beyond a long timeout", 3 * second, 0, 6*second + 1, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reg, counted, rules := prometheus.NewRegistry(), uses{}, newRules()
				rules.KeyAPITimeout = tt.timeout
				checker := extauthz.NewChecker(stalled{newFacts(), tt.lookup}, counted, rules, extauthz.NewMetrics(reg, nil))
				req := bearer(plainKey)
				req.Arrived = time.Now()
				<-time.After(tt.before)
				outcome := checker.Decide(t.Context(), req)
				<-time.After(tt.answered)
				a := outcome.Answer()

				reason, status := "ok", 0
				if !tt.allowed {
					reason, status = "unavailable", 503
				}
				if a.Allow != tt.allowed || (a.Code == 0) != tt.allowed || a.Status != status || a.Meta.Reason != reason {
					t.Errorf("%+v", a)
				}
				if !tt.allowed && (a.Meta.Decision != "deny" || slices.ContainsFunc(a.Set, func(h extauthz.Header) bool { return h.Name == "x-phantom-account-id" })) {
					t.Errorf("%+v", a)
				}
				if got := count(t, reg, reason, "false"); got != 1 || counted[tt.allowed] != 1 || counted[!tt.allowed] != 0 {
					t.Errorf("counted %v, uses %v", got, counted)
				}
			})
		})
	}
}

func TestLateDenialStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newChecker(stalled{newFacts(), time.Minute}, newRules()).Check(t.Context(), bearer(revokedKey))
		if a.Allow || a.Meta.Reason != "key_revoked" {
			t.Errorf("%+v", a)
		}
		rules := newRules()
		rules.Shadow = true
		a = newChecker(stalled{newFacts(), time.Minute}, rules).Check(t.Context(), bearer(plainKey))
		if !a.Allow || len(a.Set) > 0 || a.Meta.Decision != "allow" || a.Meta.ShadowDecision != "deny" || a.Meta.Reason != "unavailable" {
			t.Errorf("shadow: %+v", a)
		}
	})
}

func TestLimitIsThatOfTheRulesAtTheBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		longer := newRules()
		longer.KeyAPITimeout = time.Minute
		checker := newChecker(newFacts(), newRules())
		first := checker.Decide(t.Context(), bearer(plainKey))
		checker.SetRules(longer)
		second := checker.Decide(t.Context(), bearer(plainKey))
		<-time.After(2 * time.Minute)
		if a := first.Answer(); a.Allow {
			t.Errorf("began with a limit of 1s: %+v", a)
		}
		if a := second.Answer(); !a.Allow {
			t.Errorf("began with a limit of 2m: %+v", a)
		}
	})
}

func TestZeroAndFailedOutcomesDeny(t *testing.T) {
	var zero extauthz.Outcome
	failed := newChecker(newFacts(), newRules()).Fail(bearer(plainKey))
	for name, a := range map[string]extauthz.Answer{"zero": zero.Answer(), "failed": failed.Answer(), "without a request": extauthz.Failed()} {
		if a.Allow || a.Code != 14 || a.Status != 503 || a.Meta.Reason != "unavailable" || a.Meta.Decision != "deny" || a.Body == "" ||
			!slices.Contains(a.Set, extauthz.Header{Name: "retry-after", Value: "1"}) {
			t.Errorf("%s: %+v", name, a)
		}
	}
	rules := newRules()
	rules.Shadow = true
	failed = newChecker(newFacts(), rules).Fail(bearer(plainKey))
	if a := failed.Answer(); !a.Allow || a.Meta.ShadowDecision != "deny" || a.Meta.Reason != "unavailable" || !slices.Contains(a.Remove, "x-phantom-account-id") {
		t.Errorf("shadow: %+v", a)
	}
}
