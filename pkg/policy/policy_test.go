package policy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

var now = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func record(change func(*credential.Record)) credential.Record {
	rec := credential.Record{
		Kind: credential.Key, ID: "key_1", State: credential.Active,
		Account: credential.Account{ID: "acc_1", State: credential.Active},
	}
	if change != nil {
		change(&rec)
	}
	return rec
}

func session(r *credential.Record) { r.Kind = credential.Session; r.ID = "ses_1" }

func TestDecide(t *testing.T) {
	chat := policy.NewRequirement(policy.Any, "chat:companion")
	open := policy.NewRequirement(policy.Any, "")
	for _, tt := range []struct {
		name   string
		rec    func(*credential.Record)
		kind   credential.Kind
		absent bool
		req    policy.Requirement
		want   policy.Reason
	}{
		{"key without scope needed", nil, credential.Key, false, open, policy.OK},
		{"key unknown", nil, credential.Key, true, open, policy.KeyUnknown},
		{"session unknown", nil, credential.Session, true, open, policy.SessionExpired},
		{"session presented as key", session, credential.Key, false, open, policy.KeyUnknown},
		{"key presented as session", nil, credential.Session, false, open, policy.SessionExpired},
		{"kind of nothing", nil, 0, false, open, policy.Unavailable},
		{"revoked before expired", func(r *credential.Record) {
			r.State, r.ExpiresAt = credential.Revoked, now.Add(-time.Hour)
		}, credential.Key, false, open, policy.KeyRevoked},
		{"expires now", func(r *credential.Record) { r.ExpiresAt = now }, credential.Key, false, open, policy.KeyExpired},
		{"expires in a moment", func(r *credential.Record) { r.ExpiresAt = now.Add(1) }, credential.Key, false, open, policy.OK},
		{"session ended", func(r *credential.Record) { session(r); r.State = credential.Revoked }, credential.Session, false, open, policy.SessionExpired},
		{"session expired", func(r *credential.Record) { session(r); r.ExpiresAt = now }, credential.Session, false, open, policy.SessionExpired},
		{"account terminated", func(r *credential.Record) { r.Account.State = credential.Terminated }, credential.Key, false, chat, policy.AccountTerminated},
		{"revoked before terminated", func(r *credential.Record) {
			r.State, r.Account.State = credential.Revoked, credential.Terminated
		}, credential.Key, false, open, policy.KeyRevoked},
		{"account of no state", func(r *credential.Record) { r.Account.State = 0 }, credential.Key, false, open, policy.Unavailable},
		{"account revoked is no state", func(r *credential.Record) { r.Account.State = credential.Revoked }, credential.Key, false, open, policy.Unavailable},
		{"key of no state", func(r *credential.Record) { r.State = 0 }, credential.Key, false, open, policy.Unavailable},
		{"key terminated is no state", func(r *credential.Record) { r.State = credential.Terminated }, credential.Key, false, open, policy.Unavailable},
		{"no requirement", nil, credential.Key, false, policy.Requirement{}, policy.NoPolicy},
		{"unknown principal", nil, credential.Key, false, policy.Requirement{Principal: 77}, policy.NoPolicy},
		{"terminated before no policy", func(r *credential.Record) { r.Account.State = credential.Terminated }, credential.Key, false, policy.Requirement{}, policy.AccountTerminated},
		{"key on session endpoint", nil, credential.Key, false, policy.NewRequirement(policy.SessionOnly, "chat:companion"), policy.SessionRequired},
		{"session on key endpoint", session, credential.Session, false, policy.NewRequirement(policy.KeyOnly, ""), policy.KeyRequired},
		{"scope missing", nil, credential.Key, false, chat, policy.ScopeMissing},
		{"scope held", func(r *credential.Record) { r.Scopes = credential.NewScopes("chat:companion") }, credential.Key, false, chat, policy.OK},
		{"session carries the chat scope", session, credential.Session, false, chat, policy.OK},
		{"session lacks another", session, credential.Session, false, policy.NewRequirement(policy.Any, "admin"), policy.ScopeMissing},
		{"scope that cannot be", nil, credential.Key, false, policy.NewRequirement(policy.Any, `a"b`), policy.NoPolicy},
	} {
		t.Run(tt.name, func(t *testing.T) {
			judge := policy.Judge{SessionScopes: credential.NewScopes("chat:companion")}
			d := judge.Decide(tt.kind, record(tt.rec), !tt.absent, tt.req, now)
			if d.Reason != tt.want {
				t.Errorf("got %v, want %v", d.Reason, tt.want)
			}
			if d.Allowed() != (tt.want == policy.OK) || d.Allowed() != (d.Code() == 0) {
				t.Errorf("allowed %v, code %d for %v", d.Allowed(), d.Code(), d.Reason)
			}
		})
	}
}

func TestZeroDenies(t *testing.T) {
	var d policy.Decision
	if d.Allowed() || d.Code() == 0 || d.Status() != 503 {
		t.Errorf("the zero decision: allowed %v, code %d, status %d", d.Allowed(), d.Code(), d.Status())
	}
	if policy.Deny(policy.OK).Allowed() {
		t.Error("Deny(OK) allows")
	}
	if d := policy.Deny(policy.Reason(200)); d.Allowed() || d.Code() == 0 {
		t.Error("a reason that is none allows")
	}
	var judge policy.Judge
	if judge.Decide(credential.Key, credential.Record{}, true, policy.NewRequirement(policy.Any, ""), now).Allowed() {
		t.Error("the zero record is allowed")
	}
}

// TestRows holds the deny table of the contract to the letter.
func TestRows(t *testing.T) {
	key := func(required string) policy.Decision {
		return policy.Judge{}.Decide(credential.Key, record(nil), true, policy.NewRequirement(policy.Any, required), now)
	}
	ses := policy.Judge{}.Decide(credential.Session, record(session), true, policy.NewRequirement(policy.Any, "a"), now)
	const bearer = `Bearer realm="phantom"`
	for _, tt := range []struct {
		d                    policy.Decision
		reason               string
		status               int
		code                 int32
		err, message, header string
		retry                bool
	}{
		{policy.Deny(policy.NoCredential), "no_credential", 401, 16, "UNAUTHORIZED", "Missing API key", bearer, false},
		{policy.Deny(policy.MalformedAuthorization), "malformed_authorization", 401, 16, "UNAUTHORIZED", "Malformed Authorization header", bearer + `, error="invalid_request"`, false},
		{policy.Deny(policy.SessionOrigin), "session_origin", 403, 7, "FORBIDDEN", "Session cookies are accepted only from the web app", "", false},
		{policy.Deny(policy.KeyUnknown), "key_unknown", 401, 16, "UNAUTHORIZED", "Invalid API key", bearer + `, error="invalid_token"`, false},
		{policy.Deny(policy.KeyRevoked), "key_revoked", 401, 16, "UNAUTHORIZED", "API key has been revoked", bearer + `, error="invalid_token"`, false},
		{policy.Deny(policy.KeyExpired), "key_expired", 401, 16, "UNAUTHORIZED", "API key has expired", bearer + `, error="invalid_token"`, false},
		{policy.Deny(policy.SessionExpired), "session_expired", 401, 16, "UNAUTHORIZED", "Session has expired", bearer, false},
		{policy.Deny(policy.AccountTerminated), "account_terminated", 403, 7, "ACCOUNT_TERMINATED", "Account has been terminated", "", false},
		{policy.Deny(policy.NoPolicy), "no_policy", 403, 7, "FORBIDDEN", "No access policy for this endpoint", "", false},
		{policy.Deny(policy.SessionRequired), "session_required", 403, 7, "FORBIDDEN", "This endpoint is not available to API keys", "", false},
		{policy.Deny(policy.KeyRequired), "key_required", 403, 7, "FORBIDDEN", "This endpoint requires an API key", "", false},
		{key("b:2 a"), "scope_missing", 403, 7, "FORBIDDEN", "Missing required scope: b:2", bearer + `, error="insufficient_scope", scope="b:2 a"`, false},
		{ses, "scope_missing", 403, 7, "FORBIDDEN", "Missing required scope: a", "", false},
		{policy.Deny(policy.Unavailable), "unavailable", 503, 14, "SERVICE_UNAVAILABLE", "Authorization is temporarily unavailable", "", true},
		{policy.Deny(policy.RateLimited), "rate_limited", 429, 8, "TOO_MANY_REQUESTS", "Too many requests with unknown credentials", "", true},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			d := tt.d
			if d.Reason.String() != tt.reason || d.Status() != tt.status || d.Code() != tt.code || d.ErrorName() != tt.err ||
				d.Message() != tt.message || d.Challenge() != tt.header || d.RetryAfter() != tt.retry {
				t.Errorf("got %v %d %d %s %q %q %v", d.Reason, d.Status(), d.Code(), d.ErrorName(), d.Message(), d.Challenge(), d.RetryAfter())
			}
		})
	}
	if len(policy.Reasons()) != 15 {
		t.Errorf("%d reasons: is the new one in this table?", len(policy.Reasons()))
	}
}

func TestEndpoints(t *testing.T) {
	name := func(s string) policy.Requirement { return policy.NewRequirement(policy.Any, s) }
	table, err := policy.NewEndpoints([]policy.Endpoint{
		{Prefix: true, Path: "/", Requirement: name("root")},
		{Prefix: true, Path: "/api", Requirement: name("api")},
		{Prefix: true, Path: "/api/v1/chat", Requirement: name("chat")},
		{Path: "/api/v1/me", Methods: []string{"GET", "PUT"}, Requirement: name("me")},
		{Path: "/api/v1/me", Methods: []string{"GET"}, Host: "admin.example", Requirement: name("admin")},
		{Path: "/only", Host: "a.example", Requirement: name("only")},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ method, host, target, want string }{
		{"GET", "x", "/", "root"},
		{"GET", "x", "/other", "root"},
		{"GET", "x", "/api", "api"},
		{"GET", "x", "/api/", "api"},
		{"GET", "x", "/apis", "root"},
		{"GET", "x", "/api/v1/chat", "chat"},
		{"GET", "x", "/api/v1/chat?x=/../y", "chat"},
		{"GET", "x", "/api/v1/chat/a/b/c", "chat"},
		{"GET", "x", "/api/v1/chatter", "api"},
		{"GET", "x", "/api/v1/%63hat", "chat"},
		{"GET", "x", "/api/v1/Chat", "api"},
		{"GET", "x", "/api/v1/me", "me"},
		{"GET", "admin.example", "/api/v1/me", "admin"},
		{"GET", "ADMIN.example.:8080", "/api/v1/me", "admin"},
		{"PUT", "admin.example", "/api/v1/me", "me"},
		{"DELETE", "x", "/api/v1/me", ""},
		{"GET", "x", "/api/v1/me/", "api"},
		{"GET", "b.example", "/only", ""},
		{"GET", "a.example", "/only", "only"},
		{"GET", "a.example,b", "/only", ""},
		{"GET", "[::1]:80", "/", "root"},
		{"GET", "x", "", ""},
		{"GET", "x", "*", ""},
		{"GET", "x", "//api", ""},
		{"GET", "x", "/api//v1", ""},
		{"GET", "x", "/api/./v1", ""},
		{"GET", "x", "/api/v1/..", ""},
		{"GET", "x", "/api/%2e%2E/x", ""},
		{"GET", "x", "/api/.%2e", ""},
		{"GET", "x", "/api/..;/x", ""},
		{"GET", "x", "/api;a=b", ""},
		{"GET", "x", `/api\v1`, ""},
		{"GET", "x", "/api%2Fv1", ""},
		{"GET", "x", "/api%5cv1", ""},
		{"GET", "x", "/api%00", ""},
		{"GET", "x", "/api\x00", ""},
		{"GET", "x", "/apiä", ""},
		{"GET", "x", "/api#frag", ""},
		{"GET", "x", "/api/...", "api"},
		{"GET", "x", "/api/%252e%252e", "api"},
		{"GET", "x", "/api/%zz%2", "api"},
	} {
		got := table.Match(tt.method, tt.host, tt.target)
		want := policy.Requirement{}
		if tt.want != "" {
			want = name(tt.want)
		}
		if strings.Join(got.Scopes(), " ") != strings.Join(want.Scopes(), " ") || got.Principal != want.Principal {
			t.Errorf("%s %s %q: got %v, want %q", tt.method, tt.host, tt.target, got, tt.want)
		}
	}
	if r := (policy.Endpoints{}).Match("GET", "x", "/"); r.Principal != policy.Nobody {
		t.Errorf("the empty table answers %v", r)
	}
}

func TestEndpointsClash(t *testing.T) {
	for _, tt := range []struct {
		name string
		list []policy.Endpoint
		ok   bool
	}{
		{"same path, a method in common", []policy.Endpoint{{Path: "/a", Methods: []string{"GET", "PUT"}}, {Path: "/a", Methods: []string{"PUT"}}}, false},
		{"same path, every method", []policy.Endpoint{{Path: "/a"}, {Path: "/a", Methods: []string{"PUT"}}}, false},
		{"other method", []policy.Endpoint{{Path: "/a", Methods: []string{"GET"}}, {Path: "/a", Methods: []string{"PUT"}}}, true},
		{"other host", []policy.Endpoint{{Path: "/a", Host: "x"}, {Path: "/a"}}, true},
		{"exact and prefix", []policy.Endpoint{{Path: "/a"}, {Path: "/a", Prefix: true}}, true},
	} {
		if _, err := policy.NewEndpoints(tt.list); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// FuzzMatch: whatever the target, an answer is either nothing or that of an entry
// whose path the target has literally, or has once escapes of unreserved characters
// are resolved; and a path that is refused stays refused however its query looks.
func FuzzMatch(f *testing.F) {
	for _, s := range []string{"/api/v1/chat", "/api/v1/chat/../me", "/%61pi/v1/chat", "//", "/api/v1/chat?x", "/api/v1/chat%2f", "/..;/", "/a%2"} {
		f.Add(s)
	}
	table, err := policy.NewEndpoints([]policy.Endpoint{
		{Path: "/api/v1/chat", Prefix: true, Requirement: policy.NewRequirement(policy.Any, "chat")},
		{Path: "/api/v1/me", Requirement: policy.NewRequirement(policy.Any, "me")},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, target string) {
		got := table.Match("GET", "h", target)
		if got.Principal == policy.Nobody {
			return
		}
		path, _, _ := strings.Cut(target, "?")
		lower := strings.ToLower(path)
		for _, bad := range []string{";", `\`, "//", "%2f", "%5c", "%00", "#"} {
			if strings.Contains(lower, bad) {
				t.Fatalf("%q matched", target)
			}
		}
		for _, segment := range strings.Split(strings.ReplaceAll(lower, "%2e", "."), "/") {
			if segment == "." || segment == ".." {
				t.Fatalf("%q matched", target)
			}
		}
		if again := table.Match("GET", "h", path+"?/../;"); again.Principal != got.Principal {
			t.Fatalf("%q: the query changed the answer", target)
		}
	})
}
