package extauthz_test

import (
	"context"
	"reflect"
	"testing"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// cached is facts whose records answer without a look-up.
type cached struct{ *facts }

func (c cached) Cached(d credential.Digest) (rec credential.Record, found, known bool) {
	rec, known = c.known[d]
	return rec, known, known
}

// A cached record makes the same answer as a look-up, without one.
func TestBeginAnswersAsLookupDoes(t *testing.T) {
	looked, fromCache := newFacts(), cached{newFacts()}
	slow, fast := newChecker(looked, newRules()), newChecker(fromCache, newRules())
	requests := map[string]func() *extauthz.Request{
		"key with the scope":  func() *extauthz.Request { return bearer(chatKey) },
		"without the scope":   func() *extauthz.Request { return bearer(plainKey) },
		"revoked":             func() *extauthz.Request { return bearer(revokedKey) },
		"session":             func() *extauthz.Request { return cookie("phantom_session=" + session) },
		"nothing":             func() *extauthz.Request { return &extauthz.Request{} },
		"malformed":           func() *extauthz.Request { return bearer("") },
		"key as a session":    func() *extauthz.Request { return cookie("phantom_session=" + chatKey) },
		"of a foreign origin": func() *extauthz.Request { r := cookie("phantom_session=" + session); r.Origin = nil; return r },
	}
	for name, request := range requests {
		want := slow.Check(t.Context(), with(request(), func(r *extauthz.Request) { r.Route = chat }))
		o, decided := fast.Begin(with(request(), func(r *extauthz.Request) { r.Route = chat }))
		if got := o.Answer(); !decided || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: decided %t\n%+v, want\n%+v", name, decided, got, want)
		}
	}
	if fromCache.lookups > 0 {
		t.Errorf("%d look-ups of cached records", fromCache.lookups)
	}
}

// Until Finish a check that has to wait is unavailable, not allowed.
func TestBeginWithoutACachedRecord(t *testing.T) {
	checker := newChecker(newFacts(), newRules())
	o, decided := checker.Begin(bearer(chatKey))
	if early := o; decided || early.Answer().Status != 503 {
		t.Errorf("decided %t before the look-up", decided)
	}
	o.Finish(context.Background())
	if answer := o.Answer(); !answer.Allow {
		t.Errorf("%+v", answer)
	}
}

// A requirement that was parsed in advance counts as the route's.
func TestParsedRequirement(t *testing.T) {
	checker := newChecker(cached{newFacts()}, newRules())
	for _, route := range []extauthz.RouteRequirement{
		open, chat,
		{Set: true, Principal: "session"},
		{Set: true, Principal: "key", Scope: "z chat:companion"},
		{Set: true, HasPrincipal: true},
		{Set: true, Principal: "nobody"},
		{Set: true, Scope: `"`},
	} {
		unparsed := checker.Check(t.Context(), with(bearer(chatKey), func(r *extauthz.Request) { r.Route = route }))
		required := route.Parse()
		parsed := checker.Check(t.Context(), with(bearer(chatKey), func(r *extauthz.Request) { r.Required = &required }))
		if !reflect.DeepEqual(parsed, unparsed) {
			t.Errorf("%+v: %+v, want %+v", route, parsed, unparsed)
		}
	}
}
