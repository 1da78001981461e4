package envoymodule

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func bearer(key string) string { return "authorization: Bearer " + key }

func cookie(session string) string { return "cookie: phantom_session=" + session }

func to(path string, headers ...string) []string {
	return append([]string{":method: GET", ":authority: api.example", ":path: " + path, "x-request-id: 1"}, headers...)
}

// checks are requests and how they are decided. Both fronts answer them alike (fronts_test.go).
var checks = []struct {
	name    string
	headers []string
	route   *extauthz.RouteRequirement
	reason  policy.Reason
}{
	{"no credential", to("/me"), nil, policy.NoCredential},
	{"no headers", nil, nil, policy.NoCredential},
	{"malformed", to("/me", "authorization: Basic x"), nil, policy.MalformedAuthorization},
	{"empty authorization", to("/me", "authorization: "), nil, policy.MalformedAuthorization},
	{"two authorizations", to("/me", bearer(plainKey), bearer(plainKey)), nil, policy.MalformedAuthorization},
	{"key", to("/me", bearer(plainKey)), nil, policy.OK},
	{"key with scopes", to("/chat?q=1", bearer(chatKey)), nil, policy.OK},
	{"key of an unknown format", to("/me", bearer("sk-x")), nil, policy.KeyUnknown},
	{"unknown", to("/me", bearer(unknownKey)), nil, policy.KeyUnknown},
	{"revoked", to("/me", bearer(revokedKey)), nil, policy.KeyRevoked},
	{"expired", to("/me", bearer(expiredKey)), nil, policy.KeyExpired},
	{"terminated", to("/me", bearer(terminatedKey)), nil, policy.AccountTerminated},
	{"rate limited", to("/me", bearer(limitedKey)), nil, policy.RateLimited},
	{"unavailable", to("/me", bearer(unavailableKey)), nil, policy.Unavailable},
	{"scope missing", to("/chat", bearer(plainKey)), nil, policy.ScopeMissing},
	{"key at an endpoint for sessions", to("/session", bearer(plainKey)), nil, policy.SessionRequired},
	{"no policy", to("/other", bearer(plainKey)), nil, policy.NoPolicy},

	{"session", to("/me", cookie(session), "origin: "+origin), nil, policy.OK},
	{"session in the second of three cookies", to("/me", "cookie: a=b", cookie(session)+"; c=d", "cookie: e=f", "origin: "+origin), nil, policy.OK},
	{"two sessions", to("/me", cookie(session), cookie(endedSession), "origin: "+origin), nil, policy.SessionExpired},
	{"ended session", to("/me", cookie(endedSession), "origin: "+origin), nil, policy.SessionExpired},
	{"same-origin", to("/me", cookie(session), "sec-fetch-site: same-origin"), nil, policy.OK},
	{"two fetch sites", to("/me", cookie(session), "sec-fetch-site: same-origin", "sec-fetch-site: same-origin"), nil, policy.SessionOrigin},
	{"other origin", to("/me", cookie(session), "origin: https://evil.example"), nil, policy.SessionOrigin},
	{"two origins", to("/me", cookie(session), "origin: "+origin, "origin: "+origin), nil, policy.SessionOrigin},
	{"session at an endpoint for keys", to("/key", cookie(session), "origin: "+origin), nil, policy.KeyRequired},
	{"key beside a session", to("/me", bearer(plainKey), cookie(session)+"; a=b"), nil, policy.OK},

	{"gRPC", to("/me", "content-type: application/grpc"), nil, policy.NoCredential},
	{"gRPC without a scope", to("/chat", bearer(plainKey), "content-type: application/grpc+proto"), nil, policy.ScopeMissing},
	{"gRPC-Web", to("/me", "content-type: application/grpc-web"), nil, policy.NoCredential},
	{"two content types", to("/me", "content-type: application/grpc", "content-type: text/plain"), nil, policy.NoCredential},

	{"reserved headers", to("/me", bearer(chatKey), "x-phantom-account-id: evil", "x-phantom-account-id: evil2", "x-phantom-new: 1", "x_phantom_scopes: admin", "x-phantom-: 1"), nil, policy.OK},
	{"reserved headers without scopes", to("/me", bearer(plainKey), "x-phantom-scopes: admin", "x-phantom-scopes: b"), nil, policy.OK},
	{"reserved headers of a denied request", to("/me", "x-phantom-account-id: evil", "x_phantom_account_id: evil"), nil, policy.NoCredential},

	{"route without a scope", to("/other", bearer(plainKey)), &extauthz.RouteRequirement{Set: true}, policy.OK},
	{"route with a scope", to("/me", bearer(plainKey)), &extauthz.RouteRequirement{Set: true, Scope: "chat:companion"}, policy.ScopeMissing},
	{"route with two scopes", to("/me", bearer(chatKey)), &extauthz.RouteRequirement{Set: true, Scope: "z  chat:companion"}, policy.OK},
	{"route for sessions", to("/me", bearer(plainKey)), &extauthz.RouteRequirement{Set: true, HasPrincipal: true, Principal: "session"}, policy.SessionRequired},
	{"route for an unknown principal", to("/me", bearer(plainKey)), &extauthz.RouteRequirement{Set: true, HasPrincipal: true, Principal: "x"}, policy.NoPolicy},
	{"route with an invalid scope", to("/me", bearer(plainKey)), &extauthz.RouteRequirement{Set: true, Scope: "\""}, policy.NoPolicy},
}

func TestReasonsAreAllInTheTable(t *testing.T) {
	missing := map[policy.Reason]bool{}
	for _, reason := range policy.Reasons() {
		missing[reason] = true
	}
	for _, tt := range checks {
		delete(missing, tt.reason)
	}
	if len(missing) > 0 {
		t.Errorf("no check has %v", missing)
	}
}

// routeOf returns the configuration of a route as Envoy keeps it.
func routeOf(t *testing.T, r *extauthz.RouteRequirement) any {
	t.Helper()
	if r == nil {
		return nil
	}
	made, err := Module{Route: func([]byte) (extauthz.RouteRequirement, error) { return *r, nil }}.CreatePerRoute(nil)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// eachMode runs a test with answers of the cache, and with look-ups.
func eachMode(t *testing.T, test func(t *testing.T, misses, shadow bool)) {
	for _, misses := range []bool{false, true} {
		for _, shadow := range []bool{false, true} {
			t.Run(fmt.Sprintf("misses=%t shadow=%t", misses, shadow), func(t *testing.T) { test(t, misses, shadow) })
		}
	}
}

// settled runs a request until it is answered or continued.
func settled(t *testing.T, f *factory, route any, headers ...string) *stream {
	t.Helper()
	s := newStream(t, headers...)
	s.route = route
	s.request(f)
	finish(s)
	return s
}

// finish waits for the look-up of a stream, if there is one, and completes the stream.
func finish(s *stream) {
	s.t.Helper()
	if s.filter.(*filter).cancel != nil {
		s.callback(<-s.tasks)
	}
	s.passed()
	s.complete()
}

func TestChecks(t *testing.T) {
	eachMode(t, func(t *testing.T, misses, shadow bool) {
		for _, tt := range checks {
			t.Run(tt.name, func(t *testing.T) {
				e := newEngine(t)
				e.misses, e.rules.Shadow = misses, shadow
				s := settled(t, e.factory(t), routeOf(t, tt.route), tt.headers...)
				want := policy.Deny(tt.reason).Denial().Status
				if tt.reason == policy.OK || shadow {
					want = 0
				}
				if got := s.denied(); int(got) != want || s.passed() != (want == 0) {
					t.Errorf("the status %d, want %d; passed %t", got, want, s.passed())
				}
				field := "reason"
				if got := s.metadata[field]; got != tt.reason.String() {
					t.Errorf("%s is %v, want %v", field, got, tt.reason)
				}
				wantCount := map[string]int{"phantom_authz.checks." + tt.reason.String(): 1}
				if diff := cmp.Diff(wantCount, e.config.countedBy(s)); diff != "" {
					t.Errorf("Envoy's counters (-want +got):\n%s", diff)
				}
				if s.passed() {
					checkPassed(t, s, shadow)
				}
				if n := e.panicCount(t); n != 0 {
					t.Errorf("%d panics", n)
				}
			})
		}
	})
}

// checkPassed checks that a request that passed has only our identity, and no credential.
func checkPassed(t *testing.T, s *stream, shadow bool) {
	t.Helper()
	for name, values := range s.headers.all() {
		all := strings.Join(values, ",")
		if strings.Contains(all, "!!") {
			t.Errorf("%s is overwritten memory: %q", name, all)
		}
		if strings.HasPrefix(strings.ReplaceAll(name, "_", "-"), "x-phantom-") && (len(values) != 1 || strings.Contains(all, "evil") || strings.Contains(all, "admin")) {
			t.Errorf("%s: %q", name, values)
		}
		if !shadow && (strings.Contains(all, session) || strings.Contains(all, plainKey) || strings.Contains(all, chatKey)) {
			t.Errorf("the credential is sent upstream in %s", name)
		}
	}
}

func TestIdentityIsSet(t *testing.T) {
	eachMode(t, func(t *testing.T, misses, shadow bool) {
		for _, tt := range []struct {
			name    string
			headers []string
			want    map[string][]string
		}{
			{"key", []string{bearer(chatKey)}, map[string][]string{
				"x-phantom-account-id": {"acc_1"}, "x-phantom-principal": {"key"}, "x-phantom-credential-id": {"key_chat"},
				"x-phantom-scopes": {"chat:companion z"},
			}},
			// Envoy removes a header that is set to an empty value.
			{"key without scopes", []string{bearer(plainKey), "x-phantom-scopes: admin"}, map[string][]string{
				"x-phantom-account-id": {"acc_1"}, "x-phantom-principal": {"key"}, "x-phantom-credential-id": {"key_plain"},
			}},
			{"session", []string{"cookie: a=b", cookie(session), "origin: " + origin}, map[string][]string{
				"x-phantom-account-id": {"acc_1"}, "x-phantom-principal": {"session"}, "x-phantom-credential-id": {"ses_1"},
				"x-phantom-scopes": {"chat:companion z"}, "cookie": {"a=b"}, "origin": {origin},
			}},
		} {
			e := newEngine(t)
			e.misses, e.rules.Shadow = misses, shadow
			s := settled(t, e.factory(t), nil, to("/me", tt.headers...)...)
			got := s.headers.all()
			maps.DeleteFunc(got, func(name string, _ []string) bool { return name[0] == ':' || name == "x-request-id" })
			if shadow { // the upstream may still check the credential
				delete(got, "authorization")
				if c := got["cookie"]; c != nil {
					got["cookie"] = c[:1]
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("%s: at the upstream (-want +got):\n%s", tt.name, diff)
			}
		}
	})
}

func TestShadowModeReportsBothDecisions(t *testing.T) {
	e := newEngine(t)
	e.rules.Shadow = true
	f := e.factory(t)
	for header, want := range map[string]map[string]any{
		bearer(unknownKey): {"decision": "allow", "shadow_decision": "deny", "reason": "key_unknown"},
		bearer(chatKey): {
			"decision": "allow", "shadow_decision": "allow", "reason": "ok", "account_id": "acc_1", "credential_id": "key_chat",
			"principal": "key", "scopes": []string{"chat:companion", "z"},
		},
	} {
		s := settled(t, f, nil, to("/me", header)...)
		if diff := cmp.Diff(want, s.metadata); diff != "" {
			t.Errorf("metadata (-want +got):\n%s", diff)
		}
	}
}

func TestDenialIsLikeThatOfExtAuthz(t *testing.T) {
	f := newEngine(t).factory(t)
	s := settled(t, f, nil, to("/chat", bearer(plainKey))...)
	want := localReply{
		status: http.StatusForbidden, details: "ext_authz_denied",
		body: `{"error":"FORBIDDEN","message":"Missing required scope: chat:companion","statusCode":403}`,
		headers: [][2]string{
			{"content-type", "application/json"},
			{"cache-control", "no-store"},
			{"www-authenticate", `Bearer realm="phantom", error="insufficient_scope", scope="chat:companion"`},
		},
	}
	if diff := cmp.Diff([]localReply{want}, s.replies, cmp.AllowUnexported(localReply{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
