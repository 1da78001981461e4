package extauthz_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

// mixed is a Source that has some of its records in a cache.
type mixed struct {
	facts
	cached bool
}

func (m *mixed) Cached(d credential.Digest) (rec credential.Record, found, known bool) {
	rec, found = m.known[d]
	return rec, found, m.cached
}

func (m *mixed) Lookup(ctx context.Context, d credential.Digest) (credential.Record, bool, error) {
	return m.facts.Lookup(ctx, d)
}

// drawn is a random request with the plaintext in it, and in no header.
type drawn struct {
	kind      credential.Kind // 0: no credential
	plaintext string
	headers   extauthz.Request // with the credential
	request   extauthz.Request // without it
}

func drawRequest(t *rapid.T) drawn {
	texts := []string{
		"", chatKey, plainKey, unknownKey, revokedKey, session, otherSes, foreignKey, misspelt(chatKey), misspelt(session),
		"two words", "comma,comma", "equals=", "\x80", strings.Repeat("a", 513),
	}
	d := drawn{
		kind:      rapid.SampledFrom([]credential.Kind{0, credential.Key, credential.Session}).Draw(t, "kind"),
		plaintext: rapid.SampledFrom(texts).Draw(t, "plaintext"),
	}
	if d.kind == credential.Session && rapid.Bool().Draw(t, "session token") {
		d.plaintext = session
	}
	d.request = extauthz.Request{
		Method: rapid.SampledFrom([]string{"GET", "POST"}).Draw(t, "method"),
		Path:   rapid.SampledFrom([]string{"/a", "/a?x", "/b", "/a//b", ""}).Draw(t, "path"),
		Host:   rapid.SampledFrom([]string{"h", "H:80", ""}).Draw(t, "host"),
		Route: rapid.SampledFrom([]extauthz.RouteRequirement{
			{}, open, chat, {Set: true, HasPrincipal: true, Principal: "session"}, {Set: true, HasPrincipal: true, Principal: "key"}, {Set: true, HasPrincipal: true, Principal: "none"}, {Set: true, Scope: "\x01"},
		}).Draw(t, "route"),
	}
	d.request.Origin = rapid.SampledFrom([][]string{nil, {origin}, {"https://other.example"}}).Draw(t, "origin")
	d.request.SecFetchSite = rapid.SampledFrom([][]string{nil, {"same-origin"}, {"cross-site"}}).Draw(t, "site")
	d.request.ContentType = rapid.SampledFrom([][]string{nil, {"application/grpc"}}).Draw(t, "type")
	d.headers = d.request
	switch d.kind {
	case credential.Key:
		d.headers.Authorization = []string{"Bearer " + d.plaintext}
	case credential.Session:
		d.headers.Cookie = []string{"phantom_session=" + d.plaintext}
	}
	return d
}

func drawRecord(t *rapid.T) credential.Record {
	states := rapid.SampledFrom([]credential.State{credential.Active, credential.Active, credential.Active, credential.Revoked, credential.Terminated, 0})
	return credential.Record{
		Kind: rapid.SampledFrom([]credential.Kind{credential.Key, credential.Session}).Draw(t, "record's kind"), ID: "id",
		State: states.Draw(t, "state"), Account: credential.Account{ID: "acc", State: states.Draw(t, "account's state")},
		ExpiresAt: rapid.SampledFrom([]time.Time{{}, time.Now().Add(time.Hour), time.Now().Add(-time.Hour)}).Draw(t, "expires"),
		Scopes:    rapid.SampledFrom([]credential.Scopes{{}, credential.NewScopes("chat:companion", "z")}).Draw(t, "scopes"),
	}
}

// TestExplainDecidesAsCheck: for random requests, records, rules and errors, the answer is the same.
func TestExplainDecidesAsCheck(t *testing.T) {
	table, err := policy.NewEndpoints([]policy.Endpoint{{Path: "/a", Methods: []string{"GET"}, Requirement: policy.NewRequirement(policy.Any, "z")}})
	if err != nil {
		t.Fatal(err)
	}
	reasons := map[string]int{}
	check := func(t *rapid.T) {
		d := drawRequest(t)
		source := &mixed{facts: *newFacts(), cached: rapid.Bool().Draw(t, "cached")}
		source.err = rapid.SampledFrom([]error{nil, nil, nil, credential.ErrRateLimited, errors.New("down")}).Draw(t, "error")
		if rapid.Bool().Draw(t, "has a record") {
			source.known[credential.NewSecret(d.plaintext).Digest()] = drawRecord(t)
		}
		rules := newRules()
		rules.RefuseForeign, rules.Shadow = rapid.Bool().Draw(t, "refuse foreign"), rapid.Bool().Draw(t, "shadow")
		if rapid.Bool().Draw(t, "endpoints") {
			rules.Endpoints = table
		}
		checker := newChecker(source, rules)
		var p extauthz.Presented
		if d.kind != 0 {
			p = extauthz.Present(d.kind, credential.NewSecret(d.plaintext))
		}
		want := checker.Check(context.Background(), &d.headers)
		e := checker.Explain(context.Background(), &d.request, p)
		got := e.Answer
		want.Remove, got.Remove = nil, nil // of the credential, which only the headers have
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(credential.Scopes{})); diff != "" {
			t.Fatalf("(-Check +Explain):\n%s", diff)
		}
		if want.Meta.Reason != e.Decision.Reason.String() || e.Shadow != rules.Shadow {
			t.Fatalf("%+v, want %s", e, want.Meta.Reason)
		}
		reasons[want.Meta.Reason]++
	}
	rapid.Check(t, func(t *rapid.T) {
		for range 100 {
			check(t)
		}
	})
	for _, r := range policy.Reasons() {
		if reasons[r.String()] == 0 {
			t.Errorf("no request with the reason %s", r)
		}
	}
}

// TestExplainReportsSteps: what each step found.
func TestExplainReportsSteps(t *testing.T) {
	table, err := policy.NewEndpoints([]policy.Endpoint{{Path: "/a", Requirement: policy.NewRequirement(policy.SessionOnly, "")}})
	if err != nil {
		t.Fatal(err)
	}
	source := &mixed{facts: *newFacts()}
	rules := newRules()
	rules.Endpoints = table
	checker := newChecker(source, rules)
	explain := func(req extauthz.Request, kind credential.Kind, text string) extauthz.Explanation {
		return checker.Explain(t.Context(), &req, extauthz.Present(kind, credential.NewSecret(text)))
	}
	e := explain(extauthz.Request{Path: "/a"}, credential.Key, chatKey)
	if !e.Accepted || !e.Waited || !e.Found || e.Record.ID != "key_chat" || e.Source != extauthz.FromEndpoints || e.Decision.Reason != policy.SessionRequired {
		t.Errorf("%+v", e)
	}
	source.cached = true
	if e = explain(extauthz.Request{Route: open}, credential.Key, chatKey); e.Waited || e.Source != extauthz.FromRoute || !e.Decision.Allowed() {
		t.Errorf("cached: %+v", e)
	}
	if e = explain(extauthz.Request{Path: "/b"}, credential.Key, misspelt(chatKey)); e.Accepted || e.Source != extauthz.FromNowhere || e.Decision.Reason != policy.KeyUnknown {
		t.Errorf("misspelt: %+v", e)
	}
	session := explain(extauthz.Request{Origin: []string{origin}}, credential.Session, session)
	if !session.Record.Scopes.Has("chat:companion") || session.Decision.Reason != policy.NoPolicy {
		t.Errorf("session: %+v", session)
	}
	source.cached, source.err = false, errors.New("down")
	if e = explain(extauthz.Request{Route: open}, credential.Key, chatKey); e.Err == nil || e.Found || e.Decision.Reason != policy.Unavailable {
		t.Errorf("down: %+v", e)
	}
}

// TestExplainCountsNothing: neither a check nor a use of the key.
func TestExplainCountsNothing(t *testing.T) {
	reg, counted := prometheus.NewRegistry(), uses{}
	checker := extauthz.NewChecker(newFacts(), counted, newRules(), extauthz.NewMetrics(reg, nil))
	req := extauthz.Request{Route: open}
	if e := checker.Explain(t.Context(), &req, extauthz.Present(credential.Key, credential.NewSecret(plainKey))); !e.Decision.Allowed() {
		t.Fatalf("%+v", e)
	}
	families, err := reg.Gather()
	if err != nil || len(families) == 0 {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if m.GetCounter().GetValue() != 0 || m.GetHistogram().GetSampleCount() != 0 {
				t.Errorf("%s counts it: %v", family.GetName(), m)
			}
		}
	}
	if len(counted) > 0 {
		t.Errorf("used: %v", counted)
	}
}

// TestExplainLateAllow: as in a check, a late allow is unavailable.
func TestExplainLateAllow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		checker := newChecker(stalled{newFacts(), 2 * time.Second}, newRules())
		req := extauthz.Request{Route: open}
		e := checker.Explain(t.Context(), &req, extauthz.Present(credential.Key, credential.NewSecret(plainKey)))
		if !e.Late || e.Decision.Reason != policy.Unavailable || e.Answer.Status != 503 {
			t.Errorf("%+v", e)
		}
	})
}
