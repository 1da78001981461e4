package extauthz_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

func TestAllowSetsIdentityAndRemovesCredential(t *testing.T) {
	req := with(bearer(chatKey), func(r *extauthz.Request) {
		r.Cookie = []string{"a=1; phantom_session=x; b=2", "c=\xff; d=4,phantom_session=y"}
		r.Reserved = []string{"X-Phantom-Account-Id", "x-phantom-admin", "x_phantom_account_id", "X-Phantom_Scopes"}
		r.Route = chat
	})
	a := newChecker(newFacts(), newRules()).Check(t.Context(), req)
	want := []extauthz.Header{
		{"x-phantom-account-id", "acc_1"},
		{"x-phantom-principal", "key"},
		{"x-phantom-credential-id", "key_chat"},
		{"x-phantom-scopes", "chat:companion z"},
		{"cookie", "a=1; b=2"},
	}
	if !slices.Equal(a.Set, want) || !slices.Equal(a.Remove, []string{"x-phantom-admin", "x_phantom_account_id", "X-Phantom_Scopes", "authorization"}) {
		t.Errorf("set %v, remove %v", a.Set, a.Remove)
	}
	if a.Meta.Decision != "allow" || a.Meta.Reason != "ok" || a.Meta.AccountID != "acc_1" || a.Meta.CredentialID != "key_chat" ||
		a.Meta.Principal != "key" || a.Meta.Scopes.String() != "chat:companion z" || a.Meta.ShadowDecision != "" {
		t.Errorf("%+v", a.Meta)
	}

	a = newChecker(newFacts(), newRules()).Check(t.Context(), cookie("phantom_session="+session))
	if !slices.Equal(a.Remove, []string{"cookie"}) || a.Set[3] != (extauthz.Header{Name: "x-phantom-scopes", Value: "chat:companion"}) {
		t.Errorf("session: set %v, remove %v", a.Set, a.Remove)
	}
	for _, h := range a.Set {
		if slices.Contains(a.Remove, h.Name) {
			t.Errorf("%s is both set and removed: Envoy removes last", h.Name)
		}
	}
}

func TestDenyHasBodyUnlessGRPC(t *testing.T) {
	req := with(bearer(plainKey), func(r *extauthz.Request) { r.Route = chat })
	a := newChecker(newFacts(), newRules()).Check(t.Context(), req)
	want := extauthz.Answer{
		Code: 7, Status: 403, Body: `{"error":"FORBIDDEN","message":"Missing required scope: chat:companion","statusCode":403}`,
		Set: []extauthz.Header{
			{"content-type", "application/json"},
			{"cache-control", "no-store"},
			{"www-authenticate", `Bearer realm="phantom", error="insufficient_scope", scope="chat:companion"`},
		},
	}
	if a.Allow || a.Code != want.Code || a.Status != want.Status || a.Body != want.Body || !slices.Equal(a.Set, want.Set) || len(a.Remove) > 0 {
		t.Errorf("%+v", a)
	}
	if a.Meta.Decision != "deny" || a.Meta.CredentialID != "key_plain" {
		t.Errorf("%+v", a.Meta)
	}

	for contentType, grpc := range map[string]bool{
		"application/grpc": true, "application/grpc+proto": true, "application/grpc-web": false,
		"application/grpc; x": false, "application/json": false, "": false,
	} {
		req.ContentType = []string{contentType}
		a := newChecker(newFacts(), newRules()).Check(t.Context(), req)
		if (a.Body == "") != grpc || slices.Contains(a.Set, extauthz.Header{Name: "content-type", Value: "application/json"}) == grpc ||
			slices.Contains(a.Set, extauthz.Header{Name: "grpc-status", Value: "7"}) != grpc ||
			slices.Contains(a.Set, extauthz.Header{Name: "grpc-message", Value: "Missing required scope: chat:companion"}) != grpc || a.Status != 403 {
			t.Errorf("%q: %+v", contentType, a)
		}
	}
}

func TestShadowModeAllowsAndReports(t *testing.T) {
	rules := newRules()
	rules.Shadow = true
	reg := prometheus.NewRegistry()
	down := newFacts()
	down.err = errors.New("down")
	for _, tt := range []struct {
		source           *facts
		req              *extauthz.Request
		decision, reason string
		set              int
	}{
		{newFacts(), bearer(plainKey), "allow", "ok", 4},
		{newFacts(), bearer(unknownKey), "deny", "key_unknown", 0},
		{newFacts(), &extauthz.Request{}, "deny", "no_credential", 0},
		{down, bearer(plainKey), "deny", "unavailable", 0},
	} {
		a := newChecker(tt.source, rules).Check(t.Context(), tt.req)
		if !a.Allow || a.Code != 0 || a.Body != "" || len(a.Set) != tt.set || slices.Contains(a.Remove, "authorization") {
			t.Errorf("%s: %+v", tt.reason, a)
		}
		if a.Meta.Decision != "allow" || a.Meta.ShadowDecision != tt.decision || a.Meta.Reason != tt.reason {
			t.Errorf("%s: %+v", tt.reason, a.Meta)
		}
		if tt.set == 0 && !slices.Contains(a.Remove, "x-phantom-account-id") {
			t.Errorf("%s: the client's identity headers are kept", tt.reason)
		}
	}

	checker := extauthz.NewChecker(newFacts(), uses{}, rules, extauthz.NewMetrics(reg, nil))
	checker.Check(t.Context(), bearer(unknownKey))
	if got := count(t, reg, "key_unknown", "true"); got != 1 {
		t.Errorf("counted %v", got)
	}
	if got := count(t, reg, "key_unknown", "false"); got != 0 {
		t.Errorf("counted %v without shadow", got)
	}
}

// count returns phantom_authz_checks_total.
func count(t *testing.T, reg *prometheus.Registry, reason, shadow string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if family.GetName() == "phantom_authz_checks_total" && labels["reason"] == reason && labels["shadow"] == shadow {
				return m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("no series for %s", reason)
	return 0
}
