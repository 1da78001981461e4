package envoy_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// denial is a row of the deny table, as a client receives it.
type denial struct {
	reason    string
	status    int
	error     string
	message   string
	challenge string
	retry     bool
}

const (
	realm        = `Bearer realm="phantom"`
	invalidToken = realm + `, error="invalid_token"`
)

var (
	noCredential    = denial{"no_credential", 401, "UNAUTHORIZED", "Missing API key", realm, false}
	malformed       = denial{"malformed_authorization", 401, "UNAUTHORIZED", "Malformed Authorization header", realm + `, error="invalid_request"`, false}
	sessionOrigin   = denial{"session_origin", 403, "FORBIDDEN", "Session cookies are accepted only from the web app", "", false}
	keyUnknown      = denial{"key_unknown", 401, "UNAUTHORIZED", "Invalid API key", invalidToken, false}
	keyRevoked      = denial{"key_revoked", 401, "UNAUTHORIZED", "API key has been revoked", invalidToken, false}
	keyExpired      = denial{"key_expired", 401, "UNAUTHORIZED", "API key has expired", invalidToken, false}
	sessionExpired  = denial{"session_expired", 401, "UNAUTHORIZED", "Session has expired", realm, false}
	terminated      = denial{"account_terminated", 403, "ACCOUNT_TERMINATED", "Account has been terminated", "", false}
	noPolicy        = denial{"no_policy", 403, "FORBIDDEN", "No access policy for this endpoint", "", false}
	sessionRequired = denial{"session_required", 403, "FORBIDDEN", "This endpoint is not available to API keys", "", false}
	keyRequired     = denial{"key_required", 403, "FORBIDDEN", "This endpoint requires an API key", "", false}
	scopeMissing    = denial{"scope_missing", 403, "FORBIDDEN", "Missing required scope: chat:companion", realm + `, error="insufficient_scope", scope="chat:companion"`, false}
	rateLimited     = denial{"rate_limited", 429, "TOO_MANY_REQUESTS", "Too many requests with unknown credentials", "", true}
	unavailable     = denial{"unavailable", 503, "SERVICE_UNAVAILABLE", "Authorization is temporarily unavailable", "", true}
)

func (d denial) body() string {
	return fmt.Sprintf(`{"error":%q,"message":%q,"statusCode":%d}`, d.error, d.message, d.status)
}

// header returns all headers of the answer but Date.
func (d denial) header() http.Header {
	h := http.Header{
		"Content-Type": {"application/json"}, "Cache-Control": {"no-store"},
		"Content-Length": {fmt.Sprint(len(d.body()))}, "Server": {"envoy"}, "Vary": {"Origin"},
	}
	if d.challenge != "" {
		h.Set("WWW-Authenticate", d.challenge)
	}
	if d.retry {
		h.Set("Retry-After", "1")
	}
	return h
}

// check compares an answer with the row and additional headers, byte by byte.
func (d denial) check(t *testing.T, got answer, more ...string) {
	t.Helper()
	want := d.header()
	for _, header := range more {
		name, value, _ := strings.Cut(header, ": ")
		want.Set(name, value)
	}
	header := got.header.Clone()
	header.Del("Date")
	if diff := cmp.Diff(want, header); got.status != d.status || diff != "" {
		t.Errorf("%s: status %d, want %d; headers (-want +got):\n%s", d.reason, got.status, d.status, diff)
	}
	if diff := cmp.Diff(d.body(), got.body); diff != "" {
		t.Errorf("%s: body (-want +got):\n%s", d.reason, diff)
	}
}

// deniedRequest is a request and the expected row.
type deniedRequest struct {
	name string
	request
	row denial
}

func denials(c testbed.Credentials) []deniedRequest {
	companionGet := request{path: companion}
	keys := request{path: "/api/v1/me/keys"}
	return []deniedRequest{
		{"no credential", companionGet, noCredential},
		{"no credential, other path", request{path: "/"}, noCredential},
		{"empty session cookie", companionGet.with(webApp, cookie("")), noCredential},
		{"key in the query", request{path: companion + "?api_key=" + c.Chat}, noCredential},
		{"basic credentials", companionGet.with("Authorization: Basic YTpi"), malformed},
		{"empty authorization", companionGet.with("Authorization:"), malformed},
		{"scheme only", companionGet.with("Authorization: Bearer "), malformed},
		{"two keys, comma", companionGet.with(bearer(c.Chat + ", Bearer " + c.Chat)), malformed},
		{"two lines", companionGet.with(bearer(c.Chat), bearer(c.Chat)), malformed},
		{"two lines in other cases", companionGet.with(bearer(c.Chat), "aUTHORIZATION: bearer "+c.Chat), malformed},
		{"a key of 513 bytes", companionGet.with(bearer(strings.Repeat("x", 513))), malformed},
		{"a key of 30,000 bytes", companionGet.with(bearer(strings.Repeat("x", 30_000))), malformed},
		{"non-ASCII byte", companionGet.with("Authorization: Bearer k\xe9y"), malformed},
		{"malformed beside a good session", keys.with(webApp, cookie(c.Session), "Authorization: Basic YTpi"), malformed},
		{"session, other origin", keys.with(otherOrigin, cookie(c.Session)), sessionOrigin},
		{"session without an origin", keys.with(cookie(c.Session)), sessionOrigin},
		{"session, cross-site", keys.with("Sec-Fetch-Site: cross-site", cookie(c.Session)), sessionOrigin},
		{"session, two origins", keys.with(webApp, webApp, cookie(c.Session)), sessionOrigin},
		{"other origin, though same-origin", keys.with(otherOrigin, "Sec-Fetch-Site: same-origin", cookie(c.Session)), sessionOrigin},
		{"unknown key", companionGet.with(bearer(c.Unknown)), keyUnknown},
		{"unknown key of another format", companionGet.with(bearer("sk-live-1234567890")), keyUnknown},
		{"wrong checksum", companionGet.with(bearer(c.Chat[:len(c.Chat)-1] + flip(c.Chat))), keyUnknown},
		{"session as a key", companionGet.with(bearer(c.Session)), keyUnknown},
		{"revoked key", companionGet.with(bearer(c.Revoked)), keyRevoked},
		{"expired key", companionGet.with(bearer(c.Expired)), keyExpired},
		{"ended session", keys.with(webApp, cookie(c.EndedSession)), sessionExpired},
		{"key as a session", keys.with(webApp, cookie(c.Chat)), sessionExpired},
		{"two sessions", keys.with(webApp, cookie(c.Session)+"; phantom_session="+c.EndedSession), sessionExpired},
		{"terminated account", companionGet.with(bearer(c.Terminated)), terminated},
		{"endpoint without a requirement", request{path: "/api/v1/other"}.with(bearer(c.Chat)), noPolicy},
		{"endpoint without a requirement, session", request{path: "/"}.with(webApp, cookie(c.Session)), noPolicy},
		{"key where a session is needed", keys.with(bearer(c.Chat)), sessionRequired},
		{"key on billing", request{path: "/api/v1/me/billing/invoices"}.with(bearer(c.Chat)), sessionRequired},
		{"session where a key is needed", request{path: keyOnly}.with(webApp, cookie(c.Session)), keyRequired},
		{"scope missing", companionGet.with(bearer(c.Plain)), scopeMissing},
	}
}

// flip returns a character that differs from the last of the key.
func flip(key string) string {
	if strings.HasSuffix(key, "0") {
		return "1"
	}
	return "0"
}

func TestDenials(t *testing.T) { onEach(t, checkDenials) }

func checkDenials(t *testing.T, p *proxy) {
	// The seed's key expires after a second.
	expired := request{path: companion}.with(bearer(p.env.creds.Expired))
	eventually(t, "a key expires", func() error {
		if got := p.do(t, expired); got.status != keyExpired.status {
			return fmt.Errorf("%d %s", got.status, got.body)
		}
		return nil
	})
	for _, d := range denials(p.env.creds) {
		t.Run(d.name, func(t *testing.T) {
			var more []string
			if !p.corsLast && slices.Contains(d.headers, webApp) && d.name != "session, two origins" { // Envoy joins those
				more = corsHeaders
			}
			d.row.check(t, p.do(t, d.request), more...)
			d.http2 = true
			d.row.check(t, p.do(t, d.request), more...)
		})
	}
}

// TestRoutes: each prefix matches whole segments only.
func TestRoutes(t *testing.T) { onEach(t, checkRoutes) }

func checkRoutes(t *testing.T, p *proxy) {
	c := p.env.creds
	key := bearer(c.Plain)
	for _, prefix := range []string{
		"/api/v1/chat", "/api/v1/retarget", "/api/v1/media-tag", "/api/v1/me/vector-store", "/api/v1/me/chat-preferences",
	} {
		for _, path := range []string{prefix, prefix + "/", prefix + "/a/b", prefix + "?q"} {
			scopeMissing.check(t, p.do(t, request{path: path}.with(key)))
			if got := p.do(t, request{path: path}.with(bearer(c.Chat))); got.status != 200 || !got.reached() {
				t.Errorf("%s with the scope: %d %s", path, got.status, got.body)
			}
		}
		noPolicy.check(t, p.do(t, request{path: prefix + "ter"}.with(bearer(c.Chat))))
	}
	for _, prefix := range []string{"/api/v1/me/keys", "/api/v1/me/credits", "/api/v1/me/usage", "/api/v1/me/billing"} {
		for _, path := range []string{prefix, prefix + "/a", prefix + "?q"} {
			sessionRequired.check(t, p.do(t, request{path: path}.with(bearer(c.Chat))))
		}
		noPolicy.check(t, p.do(t, request{path: prefix + "-2"}.with(bearer(c.Chat))))
	}
	for _, path := range []string{"/api/v1/me", "/api/v1/me?x=1"} {
		if got := p.do(t, request{path: path}.with(key)); got.status != 200 || !got.reached() {
			t.Errorf("%s: %d %s", path, got.status, got.body)
		}
	}
	for _, path := range []string{"/", "/api/v1/me/", "/api/v1/me/other", "/api/v1/", "/API/V1/me", "/metrics"} {
		noPolicy.check(t, p.do(t, request{path: path}.with(bearer(c.Chat))))
	}
}

// TestUpstreamReceivesIdentityOnly: an allowed request has the four identity headers, and neither the credential nor the
// session cookie.
func TestUpstreamReceivesIdentityOnly(t *testing.T) { onEach(t, checkIdentityOnly) }

func checkIdentityOnly(t *testing.T, p *proxy) {
	c := p.env.creds
	for _, a := range []struct {
		name string
		request
		principal, credential, scopes string
		cookie                        []string
	}{
		{"key", request{path: "/api/v1/me"}.with(bearer(c.Plain)), "key", c.PlainID, "", nil},
		{"key with the scope", request{path: companion}.with(bearer(c.Chat)), "key", c.ChatID, "chat:companion", nil},
		{"scheme in another case", request{path: companion}.with("authorization: bEARER  " + c.Chat), "key", c.ChatID, "chat:companion", nil},
		{
			"session", request{path: companion}.with(webApp, "Cookie: theme=dark; phantom_session="+c.Session+"; lang=de"),
			"session", c.SessionID, "chat:companion",
			[]string{"theme=dark; lang=de"},
		},
		{
			"session, same origin", request{path: "/api/v1/me/usage"}.with("Sec-Fetch-Site: same-origin", cookie(c.Session)),
			"session", c.SessionID, "chat:companion", nil,
		},
		{
			"key and session: the cookie is ignored and removed",
			request{path: "/api/v1/me"}.with(otherOrigin, bearer(c.Plain), cookie(c.Session)), "key", c.PlainID, "", nil,
		},
		{"key only", request{path: keyOnly}.with(bearer(c.Plain)), "key", c.PlainID, "", nil},
	} {
		for _, a.http2 = range []bool{false, true} {
			got := p.do(t, a.request)
			echo, ok := got.upstream()
			if got.status != 200 || !ok {
				t.Errorf("%s: %d %s", a.name, got.status, got.body)
				continue
			}
			want := map[string][]string{
				"x-phantom-account-id": {c.Account}, "x-phantom-principal": {a.principal},
				"x-phantom-credential-id": {a.credential}, "x-phantom-scopes": {a.scopes},
			}
			if a.cookie != nil {
				want["cookie"] = a.cookie
			}
			if diff := cmp.Diff(want, secretsAndIdentity(echo)); diff != "" {
				t.Errorf("%s: at the upstream (-want +got):\n%s", a.name, diff)
			}
		}
	}
}

// secretsAndIdentity returns the headers that the sidecar changes.
func secretsAndIdentity(a received) map[string][]string {
	found := map[string][]string{}
	for name, values := range a.Headers {
		if strings.HasPrefix(name, "x-phantom") || name == "authorization" || name == "cookie" {
			found[name] = values
		}
	}
	return found
}
