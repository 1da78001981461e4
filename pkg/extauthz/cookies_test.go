package extauthz_test

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// upstreamCookies returns the cookie header that the upstream receives.
func upstreamCookies(req *extauthz.Request, a extauthz.Answer) string {
	if slices.Contains(a.Remove, "cookie") {
		return ""
	}
	for _, h := range a.Set {
		if h.Name == "cookie" {
			return h.Value
		}
	}
	return strings.Join(req.Cookie, "; ")
}

func TestOtherCookiesAreKept(t *testing.T) {
	const ses = "phantom_session=x"
	for _, tt := range []struct {
		name    string
		cookies []string
		want    string
	}{
		{"only the session", []string{ses}, ""},
		{"no session", []string{"a=1;b=2; \xff"}, "a=1;b=2; \xff"},
		{"UTF-8", []string{"name=Zo\u00eb; " + ses}, "name=Zo\u00eb"},
		{"UTF-8 in a name", []string{ses + "; \u732b=\u4e00 \u4e8c"}, "\u732b=\u4e00 \u4e8c"},
		{"not UTF-8", []string{"a=1; b=\xff; " + ses + "; c=3"}, "a=1; c=3"},
		{"latin-1", []string{"name=Zo\xeb; " + ses}, ""},
		{"order and duplicates", []string{"b=2; a=1; " + ses + "; b=2; a=3"}, "b=2; a=1; b=2; a=3"},
		{"empty names and values", []string{"=x; a=; b; ==; " + ses}, "=x; a=; b; =="},
		{"odd separators", []string{" a=1;b=2 ;; ;" + ses + ";"}, "a=1; b=2"},
		{"spaces within", []string{`a="1  2"; ` + ses + `; b=3	4`}, `a="1  2"; b=3	4`},
		{"commas", []string{"a=1,2; " + ses}, "a=1,2"},
		{"several lines", []string{"a=1", ses, "b=2; c=3"}, "a=1; b=2; c=3"},
		{"session twice", []string{ses + "; a=1; " + ses}, "a=1"},
		{"empty session", []string{"a=1; phantom_session="}, "a=1"},
		{"session behind a comma", []string{"a=1; b=2," + ses}, "a=1"},
		{"session with spaces", []string{"a=1; phantom_session =x"}, "a=1"},
		{"names that contain the session's", []string{"a=phantom_session; xphantom_session=1; phantom_session2=2"}, "a=phantom_session; xphantom_session=1; phantom_session2=2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := with(bearer(plainKey), func(r *extauthz.Request) { r.Cookie = tt.cookies })
			if got := upstreamCookies(req, newChecker(newFacts(), newRules()).Check(t.Context(), req)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// The other cookies are kept byte for byte and in order, at any position of the session cookie.
func TestOnlyTheSessionCookieIsRemoved(t *testing.T) {
	checker := newChecker(newFacts(), newRules())
	pairs := rapid.Custom(func(t *rapid.T) string {
		text := rapid.OneOf(rapid.String(), rapid.StringMatching(`[!-~]*`))
		return text.Draw(t, "name") + "=" + text.Draw(t, "value")
	}).Filter(func(pair string) bool {
		return !strings.ContainsAny(pair, ";,") && strings.Trim(pair, " \t") == pair && !strings.Contains(pair, "phantom_session") && utf8.ValidString(pair)
	})
	rapid.Check(t, func(t *rapid.T) {
		others := rapid.SliceOf(pairs).Draw(t, "others")
		at := rapid.IntRange(0, len(others)).Draw(t, "position")
		all := slices.Insert(slices.Clone(others), at, "phantom_session="+session)
		req := cookie(strings.Join(all, rapid.SampledFrom([]string{"; ", ";"}).Draw(t, "separator")))
		a := checker.Check(t.Context(), req)
		if got, want := upstreamCookies(req, a), strings.Join(others, "; "); !a.Allow || got != want {
			t.Fatalf("allowed %v, got %q, want %q", a.Allow, got, want)
		}
		req = with(bearer(plainKey), func(r *extauthz.Request) { r.Cookie = others })
		if got, want := upstreamCookies(req, checker.Check(t.Context(), req)), strings.Join(others, "; "); got != want {
			t.Fatalf("without a session: got %q, want %q", got, want)
		}
	})
}

// A client's reserved headers are removed in any spelling, except the headers that the answer sets.
func TestReservedHeadersOfTheClientAreRemoved(t *testing.T) {
	spelled := rapid.Custom(func(t *rapid.T) string {
		name := []byte(rapid.SampledFrom([]string{"x-phantom-account-id", "x-phantom-principal", "x-phantom-credential-id", "x-phantom-scopes", "x-phantom-admin"}).Draw(t, "name"))
		for i, c := range name {
			if c == '-' && rapid.Bool().Draw(t, "underscore") {
				name[i] = '_'
			} else if rapid.Bool().Draw(t, "capital") {
				name[i] = strings.ToUpper(string(c))[0]
			}
		}
		return string(name)
	})
	rapid.Check(t, func(t *rapid.T) {
		rules := newRules()
		rules.Shadow = rapid.Bool().Draw(t, "shadow")
		req := bearer(rapid.SampledFrom([]string{plainKey, revokedKey}).Draw(t, "key"))
		req.Reserved = rapid.SliceOf(spelled).Draw(t, "sent")
		a := newChecker(newFacts(), rules).Check(t.Context(), req)
		if !a.Allow {
			return
		}
		set := func(name string) bool {
			return slices.ContainsFunc(a.Set, func(h extauthz.Header) bool { return strings.EqualFold(h.Name, name) })
		}
		for _, name := range req.Reserved {
			if !set(name) && !slices.ContainsFunc(a.Remove, func(r string) bool { return strings.EqualFold(r, name) }) {
				t.Fatalf("%s is kept: set %v, remove %v", name, a.Set, a.Remove)
			}
		}
		for _, name := range a.Remove {
			if set(name) {
				t.Fatalf("%s is both set and removed: Envoy removes last", name)
			}
		}
	})
}
