package policy_test

import (
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
		{"unknown kind", nil, 0, false, open, policy.Unavailable},
		{"revoked before expired", func(r *credential.Record) {
			r.State, r.ExpiresAt = credential.Revoked, now.Add(-time.Hour)
		}, credential.Key, false, open, policy.KeyRevoked},
		{"expires now", func(r *credential.Record) { r.ExpiresAt = now }, credential.Key, false, open, policy.KeyExpired},
		{"expires in 1 ns", func(r *credential.Record) { r.ExpiresAt = now.Add(1) }, credential.Key, false, open, policy.OK},
		{"session ended", func(r *credential.Record) { session(r); r.State = credential.Revoked }, credential.Session, false, open, policy.SessionExpired},
		{"session expired", func(r *credential.Record) { session(r); r.ExpiresAt = now }, credential.Session, false, open, policy.SessionExpired},
		{"account terminated", func(r *credential.Record) { r.Account.State = credential.Terminated }, credential.Key, false, chat, policy.AccountTerminated},
		{"revoked before terminated", func(r *credential.Record) {
			r.State, r.Account.State = credential.Revoked, credential.Terminated
		}, credential.Key, false, open, policy.KeyRevoked},
		{"account state unknown", func(r *credential.Record) { r.Account.State = 0 }, credential.Key, false, open, policy.Unavailable},
		{"account state revoked", func(r *credential.Record) { r.Account.State = credential.Revoked }, credential.Key, false, open, policy.Unavailable},
		{"key state unknown", func(r *credential.Record) { r.State = 0 }, credential.Key, false, open, policy.Unavailable},
		{"key state terminated", func(r *credential.Record) { r.State = credential.Terminated }, credential.Key, false, open, policy.Unavailable},
		{"no requirement", nil, credential.Key, false, policy.Requirement{}, policy.NoPolicy},
		{"unknown principal", nil, credential.Key, false, policy.Requirement{Principal: 77}, policy.NoPolicy},
		{"terminated before no policy", func(r *credential.Record) { r.Account.State = credential.Terminated }, credential.Key, false, policy.Requirement{}, policy.AccountTerminated},
		{"key on session endpoint", nil, credential.Key, false, policy.NewRequirement(policy.SessionOnly, "chat:companion"), policy.SessionRequired},
		{"session on key endpoint", session, credential.Session, false, policy.NewRequirement(policy.KeyOnly, ""), policy.KeyRequired},
		{"scope missing", nil, credential.Key, false, chat, policy.ScopeMissing},
		{"scope held", func(r *credential.Record) { r.Scopes = credential.NewScopes("chat:companion") }, credential.Key, false, chat, policy.OK},
		{"scope held by a session", func(r *credential.Record) { session(r); r.Scopes = credential.NewScopes("chat:companion") }, credential.Session, false, chat, policy.OK},
		{"scope missing from a session", session, credential.Session, false, chat, policy.ScopeMissing},
		{"scope invalid", nil, credential.Key, false, policy.NewRequirement(policy.Any, `a"b`), policy.NoPolicy},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := policy.Decide(tt.kind, record(tt.rec), !tt.absent, tt.req, now)
			if d.Reason != tt.want {
				t.Errorf("got %v, want %v", d.Reason, tt.want)
			}
			if d.Allowed() != (tt.want == policy.OK) || d.Allowed() != (d.Code() == 0) {
				t.Errorf("allowed %v, code %d for %v", d.Allowed(), d.Code(), d.Reason)
			}
		})
	}
}

func TestZeroValuesDeny(t *testing.T) {
	var d policy.Decision
	if d.Allowed() || d.Code() == 0 || d.Status() != 503 {
		t.Errorf("the zero decision: allowed %v, code %d, status %d", d.Allowed(), d.Code(), d.Status())
	}
	if policy.Deny(policy.OK).Allowed() {
		t.Error("Deny(OK) allows")
	}
	if d := policy.Deny(policy.Reason(200)); d.Allowed() || d.Code() == 0 {
		t.Error("an undefined reason allows")
	}
	if policy.Decide(credential.Key, credential.Record{}, true, policy.NewRequirement(policy.Any, ""), now).Allowed() {
		t.Error("the zero record is allowed")
	}
}

// TestDenyTable compares with the deny table of the contract.
func TestDenyTable(t *testing.T) {
	key := func(required string) policy.Decision {
		return policy.Decide(credential.Key, record(nil), true, policy.NewRequirement(policy.Any, required), now)
	}
	ses := policy.Decide(credential.Session, record(session), true, policy.NewRequirement(policy.Any, "a"), now)
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
		t.Errorf("%d reasons: add the new one to this table", len(policy.Reasons()))
	}
}
