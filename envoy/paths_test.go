package envoy_test

import (
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"
)

// tricks are request targets that an upstream could interpret as a chat endpoint, or that could bypass the routes.
var tricks = []string{
	"/api/v1/chat", "/api/v1/chat/", "//api/v1/chat", "/api//v1/chat", "/api/v1//chat", "/api/v1/chat//x",
	"/./api/v1/chat", "/api/./v1/./chat", "/api/v1/me/../chat", "/api/v1/me/keys/../../chat", "/../api/v1/chat",
	"/api/v1/me/../../v1/chat", "/api/v1/x/../chat/.", "/api/v1/chat/..", "/api/v1/chat/../chat",
	"/api/v1/%63hat", "/%61pi/v1/chat", "/api/v1/ch%61t", "/api/v1/%43hat", "/api/v1/CHAT", "/API/v1/chat",
	"/api/v1/me/%2e%2e/chat", "/api/v1/me/.%2e/chat", "/api/v1/me/%2E./chat", "/api/v1/me/%2e%2e%2fchat",
	"/api/v1%2fchat", "/api%2Fv1%2Fchat", "/api/v1/me%2f..%2fchat", "/api/v1%5cchat", `/api\v1\chat`, `/api/v1/me\..\chat`,
	"/api/v1/me/..%5cchat", "/api/v1/me/%2e%2e%5Cchat", "/api/v1%252fchat", "/api/v1/%2563hat", "/api/v1/me/%252e%252e/chat",
	"/api/v1/me;/../chat", "/api/v1/me/..;/chat", "/api/v1/me/..;x=1/chat", "/api/v1/me/.;/../chat", "/api/v1/chat;x=1", "/api/v1/chat;",
	"/api/v1;/chat", "/api;x/v1/chat", "/api/v1/chat%3bx", "/api/v1/chat%3Fx", "/api/v1/chat%23x", "/api/v1/me?/../chat", "/api/v1/me?/api/v1/chat",
	"/api/v1/me#/../chat", "/api/v1/chat#", "/api/v1/chat%00", "/api/v1/chat%00.png", "/api/v1/me%00/../chat", "/api/v1/chat%20", "/api/v1/chat%09",
	"/api/v1/chat.", "/api/v1/chat.json", "/api/v1/chat%0a", "/api/v1/me%0d%0aX-Phantom-Scopes:chat:companion", "/api/v1/ch\xc3\xa4t", "/api/v1/ch%c3%a4t",
	"/api/v1/%c0%ae%c0%ae/chat", "/api/v1/me/%u002e%u002e/chat", "/api/v1/chatter", "/api/v1/cha", "/api/v1/chat-preferences",
	"http://api.example/api/v1/chat", "http://api.example//api/v1/chat", "http://api.example/api/v1/me/../chat", "https://evil.example/api/v1/chat",
	"/api/v1/retarget", "/api/v1/media-tag/../retarget", "/api/v1/me/vector-store/../../chat", "/api/v1/me/chat-preferences/..;/../../chat",
	"*", "api/v1/chat", "?/api/v1/chat", "//api.example/api/v1/chat", "/%2f/api/v1/chat", "///api/v1/chat", "/api/v1/me/.../chat", "/api/v1/%7echat",
}

var guarded = []string{"/api/v1/chat", "/api/v1/retarget", "/api/v1/media-tag", "/api/v1/me/vector-store", "/api/v1/me/chat-preferences"}

// lenient returns the most lenient interpretation of a path: decoded repeatedly, without parameters, with backslashes as
// slashes, dots resolved, in lower case.
func lenient(target string) string {
	p, _, _ := strings.Cut(target, "?")
	for range 4 {
		if decoded, err := url.PathUnescape(p); err == nil {
			p = decoded
		}
	}
	p, _, _ = strings.Cut(p, "\x00")
	p = strings.ReplaceAll(p, `\`, "/")
	segments := strings.Split(p, "/")
	for i, segment := range segments {
		segment, _, _ = strings.Cut(segment, ";")
		segments[i] = strings.TrimSpace(segment)
	}
	return strings.ToLower(path.Clean("/" + strings.Join(segments, "/")))
}

func reachesGuarded(target string) bool {
	p := lenient(target)
	return slices.ContainsFunc(guarded, func(prefix string) bool { return p == prefix || strings.HasPrefix(p, prefix+"/") })
}

func TestLenientInterpretation(t *testing.T) {
	for _, trick := range []string{"/api/v1/me/%252e%252e/chat", `/api/v1/me;/..\CHAT;x`, "/api%2Fv1%2Fchat%00.png", "//api/v1/./chat%20"} {
		if !reachesGuarded(trick) {
			t.Errorf("%s is not recognized: %s", trick, lenient(trick))
		}
	}
	if reachesGuarded("/api/v1/me?/../chat") || reachesGuarded("/api/v1/chatter") {
		t.Error("an unguarded path is recognized as guarded")
	}
}

func TestPathTricksDoNotReachGuardedPaths(t *testing.T) { onEach(t, checkPathTricks) }

func checkPathTricks(t *testing.T, p *proxy) {
	c := p.env.creds
	for _, credential := range [][]string{
		nil,
		{bearer(c.Plain)},
		{bearer(c.Plain), "X-Phantom-Scopes: chat:companion"},
		{bearer(c.Plain), "X-Original-Url: /api/v1/me", "X-Rewrite-Url: /api/v1/me", "X-Forwarded-Prefix: /api/v1/me"},
	} {
		for _, trick := range tricks {
			for _, http2 := range []bool{false, true} {
				if http2 && !strings.HasPrefix(trick, "/") {
					continue // not valid as :path
				}
				got, err := p.send(t.Context(), request{path: trick, http2: http2}.with(credential...))
				if err != nil {
					if !http2 {
						t.Errorf("%s: %v", trick, err)
					}
					continue // the stream was reset
				}
				echo, ok := got.upstream()
				switch {
				case ok && (len(credential) == 0 || reachesGuarded(echo.Path)):
					t.Errorf("%s, HTTP/2 %v: reached %s", trick, http2, echo.Path)
				case !ok && (got.status < 400 || got.status > 404):
					t.Errorf("%s, HTTP/2 %v: %d %s", trick, http2, got.status, got.body)
				}
			}
		}
	}
}

// TestPathsAreNormalized: the check, the route and the upstream receive the same normalized path. Envoy rejects a path that
// it cannot normalize before the check.
func TestPathsAreNormalized(t *testing.T) { onEach(t, checkPathsNormalized) }

func checkPathsNormalized(t *testing.T, p *proxy) {
	chat := bearer(p.env.creds.Chat)
	for spelling, clean := range map[string]string{
		"//api/v1/chat": "/api/v1/chat", "/api//v1///chat//x": "/api/v1/chat/x", "/api/v1/./chat/": "/api/v1/chat/",
		"/api/v1/me/../chat": "/api/v1/chat", "/api/v1/me/%2e%2e/chat": "/api/v1/chat", "/api/v1/%63hat": "/api/v1/chat",
		`/api\v1\chat`: "/api/v1/chat", `/api/v1/me\..\chat?q=//..`: "/api/v1/chat?q=//..",
	} {
		got := p.do(t, request{path: spelling}.with(chat))
		if echo, ok := got.upstream(); !ok || echo.Path != clean {
			t.Errorf("%s: %d, path %q, want %q", spelling, got.status, echo.Path, clean)
		}
	}
	for _, path := range []string{
		"/api/v1%2fchat", "/api/v1%2Fchat", "/api/v1%5cchat", "/api/v1%5Cchat", "/api/v1/chat%00", "/api/v1/chat/%2f", "/api/v1/ch\xc3\xa4t", "/api/v1/chat#x",
	} {
		got := p.do(t, request{path: path}.with(chat))
		if got.status != 400 || got.reached() || got.header.Get("Content-Type") == "application/json" {
			t.Errorf("%s: %d %s, want Envoy's 400", path, got.status, got.body)
		}
	}
}
