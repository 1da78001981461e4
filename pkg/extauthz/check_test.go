package extauthz_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

// facts is a Source of fixed records that counts its look-ups.
type facts struct {
	known   map[credential.Digest]credential.Record
	err     error
	lookups int
	last    context.Context // of the last look-up
}

// Cached leaves every digest to Lookup.
func (f *facts) Cached(credential.Digest) (rec credential.Record, found, known bool) {
	return credential.Record{}, false, false
}

func (f *facts) Lookup(ctx context.Context, d credential.Digest) (credential.Record, bool, error) {
	f.lookups++
	f.last = ctx
	rec, ok := f.known[d]
	return rec, ok && f.err == nil, f.err
}

// uses counts the uses of keys by whether they were allowed.
type uses map[bool]int

func (n uses) Used(_ credential.Digest, allowed bool, _ time.Time) {
	if n != nil {
		n[allowed]++
	}
}

const origin = "https://app.phantomrouter.ai"

var (
	chatKey    = credential.Mint(credential.Key).Reveal()
	plainKey   = credential.Mint(credential.Key).Reveal()
	unknownKey = credential.Mint(credential.Key).Reveal()
	revokedKey = credential.Mint(credential.Key).Reveal()
	session    = credential.Mint(credential.Session).Reveal()
	otherSes   = credential.Mint(credential.Session).Reveal()
	foreignKey = "sk-other-format"
)

func newFacts() *facts {
	rec := func(kind credential.Kind, id string, state credential.State, scopes ...string) credential.Record {
		return credential.Record{
			Kind: kind, ID: id, State: state, Scopes: credential.NewScopes(scopes...),
			Account: credential.Account{ID: "acc_1", State: credential.Active},
		}
	}
	digest := func(s string) credential.Digest { return credential.NewSecret(s).Digest() }
	return &facts{known: map[credential.Digest]credential.Record{
		digest(chatKey):    rec(credential.Key, "key_chat", credential.Active, "z", "chat:companion"),
		digest(plainKey):   rec(credential.Key, "key_plain", credential.Active),
		digest(revokedKey): rec(credential.Key, "key_revoked", credential.Revoked),
		digest(foreignKey): rec(credential.Key, "key_foreign", credential.Active),
		digest(session):    rec(credential.Session, "ses_1", credential.Active),
	}}
}

func newRules() *extauthz.Rules {
	return &extauthz.Rules{
		SessionScopes: credential.NewScopes("chat:companion"),
		Origin:        origin,
		CookieName:    "phantom_session",
	}
}

func newChecker(source extauthz.Source, rules *extauthz.Rules) *extauthz.Checker {
	return extauthz.NewChecker(source, uses{}, rules, extauthz.NewMetrics(prometheus.NewRegistry(), nil))
}

func bearer(token string) *extauthz.Request {
	return &extauthz.Request{Authorization: []string{"Bearer " + token}, Route: open}
}

func cookie(header string) *extauthz.Request {
	return &extauthz.Request{Cookie: []string{header}, Origin: []string{origin}, Route: open}
}

var (
	open = extauthz.RouteRequirement{Set: true}
	chat = extauthz.RouteRequirement{Set: true, Scope: "chat:companion"}
)

func with(req *extauthz.Request, change func(*extauthz.Request)) *extauthz.Request {
	change(req)
	return req
}

// misspelt replaces the last character.
func misspelt(key string) string {
	last := "A"
	if strings.HasSuffix(key, last) {
		last = "B"
	}
	return key[:len(key)-1] + last
}

func TestCredentialsByPresentation(t *testing.T) {
	long := strings.Repeat("a", 512)
	for _, tt := range []struct {
		name    string
		req     *extauthz.Request
		reason  string
		lookups int
	}{
		{"no credential", &extauthz.Request{Route: open}, "no_credential", 0},
		{"good key", bearer(plainKey), "ok", 1},
		{"scheme in another case", with(bearer(""), func(r *extauthz.Request) { r.Authorization[0] = "bEARER " + plainKey }), "ok", 1},
		{"two spaces", bearer(" " + plainKey), "ok", 1},
		{"tab", with(bearer(""), func(r *extauthz.Request) { r.Authorization[0] = "Bearer\t" + plainKey }), "malformed_authorization", 0},
		{"no space", with(bearer(""), func(r *extauthz.Request) { r.Authorization[0] = "Bearer" + plainKey }), "malformed_authorization", 0},
		{"empty header", with(bearer(""), func(r *extauthz.Request) { r.Authorization[0] = "" }), "malformed_authorization", 0},
		{"scheme only", with(bearer(""), func(r *extauthz.Request) { r.Authorization[0] = "Bearer" }), "malformed_authorization", 0},
		{"empty token", bearer(""), "malformed_authorization", 0},
		{"basic", with(bearer(""), func(r *extauthz.Request) { r.Authorization[0] = "Basic abc" }), "malformed_authorization", 0},
		{"two headers", with(bearer(plainKey), func(r *extauthz.Request) { r.Authorization = append(r.Authorization, r.Authorization[0]) }), "malformed_authorization", 0},
		{"joined headers", bearer(plainKey + ",Bearer " + plainKey), "malformed_authorization", 0},
		{"two tokens", bearer(plainKey + " " + plainKey), "malformed_authorization", 0},
		{"token68 padding", bearer("abc=="), "key_unknown", 1},
		{"padding within", bearer("ab=c"), "malformed_authorization", 0},
		{"only padding", bearer("=="), "malformed_authorization", 0},
		{"non-ASCII", bearer("abcä"), "malformed_authorization", 0},
		{"512 bytes", bearer(long), "key_unknown", 1},
		{"513 bytes", bearer(long + "a"), "malformed_authorization", 0},
		{"unknown key", bearer(unknownKey), "key_unknown", 1},
		{"wrong checksum", bearer(misspelt(plainKey)), "key_unknown", 0},
		{"foreign format", bearer(foreignKey), "ok", 1},
		{"session as key", bearer(session), "key_unknown", 0},
		{"revoked", bearer(revokedKey), "key_revoked", 1},

		{"session", cookie("phantom_session=" + session), "ok", 1},
		{"session among others", cookie("a=b;phantom_session=" + session + " ; c=d"), "ok", 1},
		{"key wins over cookie", with(bearer(plainKey), func(r *extauthz.Request) { r.Cookie = []string{"phantom_session=" + session} }), "ok", 1},
		{"malformed key hides cookie", with(cookie("phantom_session="+session), func(r *extauthz.Request) { r.Authorization = []string{"x"} }), "malformed_authorization", 0},
		{"other name", cookie("phantom_session2=" + session), "no_credential", 0},
		{"name in another case", cookie("Phantom_Session=" + session), "no_credential", 0},
		{"empty", cookie("phantom_session="), "no_credential", 0},
		{"empty and good", cookie("phantom_session=; phantom_session=" + session), "ok", 1},
		{"same twice", cookie("phantom_session=" + session + "; phantom_session=" + session), "ok", 1},
		{"two different", cookie("phantom_session=" + session + "; phantom_session=" + otherSes), "session_expired", 0},
		{"two different in two lines", with(cookie("phantom_session="+session), func(r *extauthz.Request) {
			r.Cookie = append(r.Cookie, "phantom_session="+otherSes)
		}), "session_expired", 0},
		{"joined with a comma", cookie("phantom_session=" + session + ",a=b"), "session_expired", 0},
		{"hidden behind a comma", cookie("a=b,phantom_session=" + session), "no_credential", 0},
		{"quoted", cookie(`phantom_session="` + session + `"`), "session_expired", 0},
		{"not cookie-octets", cookie("phantom_session=a b"), "session_expired", 0},
		{"512 bytes of session", cookie("phantom_session=" + long), "session_expired", 1},
		{"513 bytes of session", cookie("phantom_session=" + long + "a"), "session_expired", 0},
		{"key in the cookie", cookie("phantom_session=" + plainKey), "session_expired", 0},
		{"foreign key in the cookie", cookie("phantom_session=" + foreignKey), "session_expired", 1},
		{"unknown session", cookie("phantom_session=" + otherSes), "session_expired", 1},
		{"no origin", with(cookie("phantom_session="+session), func(r *extauthz.Request) { r.Origin = nil }), "session_origin", 0},
		{"other origin", with(cookie("phantom_session="+session), func(r *extauthz.Request) { r.Origin = []string{"https://evil.example"} }), "session_origin", 0},
		{"origin in another case", with(cookie("phantom_session="+session), func(r *extauthz.Request) { r.Origin = []string{"https://APP.phantomrouter.ai"} }), "session_origin", 0},
		{"origin null", with(cookie("phantom_session="+session), func(r *extauthz.Request) { r.Origin = []string{"null"} }), "session_origin", 0},
		{"origin empty", with(cookie("phantom_session="+session), func(r *extauthz.Request) {
			r.Origin, r.SecFetchSite = []string{""}, []string{"same-origin"}
		}), "session_origin", 0},
		{"origin twice", with(cookie("phantom_session="+session), func(r *extauthz.Request) { r.Origin = []string{origin, origin} }), "session_origin", 0},
		{"same-origin fetch", with(cookie("phantom_session="+session), func(r *extauthz.Request) {
			r.Origin, r.SecFetchSite = nil, []string{"same-origin"}
		}), "ok", 1},
		{"same-site fetch", with(cookie("phantom_session="+session), func(r *extauthz.Request) {
			r.Origin, r.SecFetchSite = nil, []string{"same-site"}
		}), "session_origin", 0},
		{"other origin, same-origin fetch", with(cookie("phantom_session="+session), func(r *extauthz.Request) {
			r.Origin, r.SecFetchSite = []string{"https://evil.example"}, []string{"same-origin"}
		}), "session_origin", 0},
		{"origin before contradiction", with(cookie("phantom_session=a; phantom_session=b"), func(r *extauthz.Request) { r.Origin = nil }), "session_origin", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			source := newFacts()
			a := newChecker(source, newRules()).Check(t.Context(), tt.req)
			if a.Meta.Reason != tt.reason || source.lookups != tt.lookups {
				t.Errorf("got %s after %d look-ups, want %s after %d", a.Meta.Reason, source.lookups, tt.reason, tt.lookups)
			}
			if a.Allow != (tt.reason == "ok") || (a.Code == 0) != a.Allow {
				t.Errorf("allow %v, code %d", a.Allow, a.Code)
			}
		})
	}
}

func TestForeignFormatsCanBeRefused(t *testing.T) {
	rules := newRules()
	rules.RefuseForeign = true
	for _, req := range []*extauthz.Request{bearer(foreignKey), cookie("phantom_session=" + foreignKey)} {
		source := newFacts()
		if a := newChecker(source, rules).Check(t.Context(), req); a.Allow || a.Status != 401 || source.lookups != 0 {
			t.Errorf("%+v after %d look-ups", a, source.lookups)
		}
	}
	if a := newChecker(newFacts(), rules).Check(t.Context(), bearer(plainKey)); !a.Allow {
		t.Errorf("a key in our format: %+v", a)
	}
}

func TestRequirementOfRouteOrTable(t *testing.T) {
	table, err := policy.NewEndpoints([]policy.Endpoint{{Path: "/x", Requirement: policy.NewRequirement(policy.Any, "")}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		route  extauthz.RouteRequirement
		path   string
		reason string
	}{
		{"route without scope", open, "", "ok"},
		{"route with a scope", chat, "", "scope_missing"},
		{"route for keys", extauthz.RouteRequirement{Set: true, Principal: "key"}, "", "ok"},
		{"route for any", extauthz.RouteRequirement{Set: true, Principal: "any"}, "", "ok"},
		{"route for sessions", extauthz.RouteRequirement{Set: true, Principal: "session"}, "", "session_required"},
		{"route for an unknown principal", extauthz.RouteRequirement{Set: true, Principal: "Key"}, "", "no_policy"},
		{"route for an empty principal", extauthz.RouteRequirement{Set: true, HasPrincipal: true}, "", "no_policy"},
		{"route wins over table", chat, "/x", "scope_missing"},
		{"table", extauthz.RouteRequirement{}, "/x?y", "ok"},
		{"neither", extauthz.RouteRequirement{}, "/y", "no_policy"},
	} {
		rules := newRules()
		rules.Endpoints = table
		req := with(bearer(plainKey), func(r *extauthz.Request) { r.Route, r.Path, r.Method = tt.route, tt.path, "GET" })
		if a := newChecker(newFacts(), rules).Check(t.Context(), req); a.Meta.Reason != tt.reason {
			t.Errorf("%s: %s, want %s", tt.name, a.Meta.Reason, tt.reason)
		}
	}
}

func TestFailedLookUpDenies(t *testing.T) {
	for _, tt := range []struct {
		err    error
		reason string
		status int
	}{
		{errors.New("down"), "unavailable", 503},
		{context.DeadlineExceeded, "unavailable", 503},
		{credential.ErrRateLimited, "rate_limited", 429},
	} {
		source := newFacts()
		source.err = tt.err
		a := newChecker(source, newRules()).Check(t.Context(), bearer(plainKey))
		if a.Allow || a.Meta.Reason != tt.reason || a.Status != tt.status {
			t.Errorf("%v: %+v", tt.err, a)
		}
	}
}

func TestUsageCountsOnlyKnownKeys(t *testing.T) {
	counted := uses{}
	checker := extauthz.NewChecker(newFacts(), counted, newRules(), extauthz.NewMetrics(prometheus.NewRegistry(), nil))
	for _, req := range []*extauthz.Request{
		bearer(plainKey), bearer(chatKey), bearer(revokedKey), bearer(unknownKey), bearer("x"), {}, cookie("phantom_session=" + session),
	} {
		checker.Check(t.Context(), req)
	}
	if counted[true] != 2 || counted[false] != 1 {
		t.Errorf("%v", counted)
	}
}

func TestDeadlineLeavesTimeForTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct{ timeout, want time.Duration }{
			{500 * time.Millisecond, 480 * time.Millisecond},
			{time.Minute, 980 * time.Millisecond},
			{0, 980 * time.Millisecond},
		} {
			source, ctx := newFacts(), t.Context()
			if tt.timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, tt.timeout)
				defer cancel()
			}
			newChecker(source, newRules()).Check(ctx, bearer(plainKey))
			if until, ok := source.last.Deadline(); !ok || time.Until(until) != tt.want {
				t.Errorf("timeout %v: the look-up ends at %v, want %v from now", tt.timeout, until, tt.want)
			}
		}
	})
}

// FuzzCredentials tests that only known credentials are allowed, and that no header to the upstream
// holds a credential.
func FuzzCredentials(f *testing.F) {
	for _, s := range [][2]string{
		{"Bearer " + plainKey, ""},
		{"", "phantom_session=" + session},
		{"bearer  x==", "a=b,phantom_session=c"},
		{"Basic", "phantom_session"},
		{"Bearer\x00", `phantom_session="x"; phantom_session=`},
		{"", "=;,; ;phantom_session=" + session + ";"},
		{"", "a=\xff; name=Zo\u00eb;phantom_session =x; phantom_session=" + session},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, authorization, cookies string) {
		source := newFacts()
		req := &extauthz.Request{Cookie: []string{cookies}, Origin: []string{origin}, Route: open}
		if authorization != "" {
			req.Authorization = []string{authorization}
		}
		a := newChecker(source, newRules()).Check(context.Background(), req)
		if a.Allow && !strings.Contains(authorization+cookies, plainKey) && !strings.Contains(authorization+cookies, chatKey) &&
			!strings.Contains(cookies, session) && !strings.Contains(authorization, foreignKey) {
			t.Fatalf("%q %q is allowed", authorization, cookies)
		}
		if !a.Allow && (a.Code == 0 || a.Status < 400 || a.Body == "") {
			t.Fatalf("%q %q: %+v", authorization, cookies, a)
		}
		for _, h := range a.Set {
			if !utf8.ValidString(h.Value) {
				t.Fatalf("%q %q: %s is not UTF-8", authorization, cookies, h.Name)
			}
			if strings.Contains(h.Value, session) || strings.Contains(h.Value, plainKey) && h.Name != "cookie" {
				t.Fatalf("%q %q: the credential is sent upstream in %s", authorization, cookies, h.Name)
			}
		}
	})
}
