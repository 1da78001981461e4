package envoy_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	kind "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// never are requests that must not get past the sidecar, whatever happens.
func never(c credentials) map[string]request {
	chat := request{path: "/api/v1/chat"}
	keys := request{path: "/api/v1/me/keys"}
	return map[string]request{
		"nobody on chat":                         chat,
		"nobody on an unknown path":              {path: "/"},
		"nobody, HTTP/2":                         {path: "/api/v1/chat", http2: true},
		"nobody posts":                           {method: "POST", path: "/api/v1/chat", body: "{}"},
		"nobody asks for OPTIONS":                {method: "OPTIONS", path: "/api/v1/chat"},
		"nobody upgrades":                        chat.with("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
		"only claims":                            chat.with("X-Phantom-Account-Id: acc_tests", "X-Phantom-Principal: key", "X-Phantom-Scopes: chat:companion"),
		"an unknown key":                         chat.with(bearer(c.unknown)),
		"a revoked key":                          chat.with(bearer(c.revoked)),
		"an expired key":                         chat.with(bearer(c.expired)),
		"a key of a terminated account":          chat.with(bearer(c.terminated)),
		"a key without the scope":                chat.with(bearer(c.plain)),
		"a key without the scope, other slashes": request{path: "//api/v1/./chat"}.with(bearer(c.plain)),
		"two keys":                               chat.with(bearer(c.chat), bearer(c.unknown)),
		"a key in the query":                     {path: "/api/v1/chat?key=" + c.chat},
		"a key in the cookie":                    chat.with(webApp, cookie(c.chat)),
		"a session as a key":                     chat.with(bearer(c.session)),
		"a session of a foreign page":            keys.with(foreignPage, cookie(c.session)),
		"a session without an origin":            keys.with(cookie(c.session)),
		"an ended session":                       keys.with(webApp, cookie(c.endedSession)),
		"a key on the keys":                      keys.with(bearer(c.chat)),
		"a key on billing":                       request{path: "/api/v1/me/billing"}.with(bearer(c.chat)),
		"a good key where nothing is required":   request{path: "/internal"}.with(bearer(c.chat)),
	}
}

func TestNeverAllowed(t *testing.T) {
	onEachVersion(t, func(t *testing.T, f *front) {
		for name, r := range never(f.w.held) {
			if got := f.ask(t, r); got.reached() || got.status < 400 {
				t.Errorf("%s: %d %s", name, got.status, got.body)
			}
		}
	})
}

func deniedBody() *auth.CheckResponse_DeniedResponse {
	return &auth.CheckResponse_DeniedResponse{DeniedResponse: &auth.DeniedHttpResponse{
		Status: &kind.HttpStatus{Code: kind.StatusCode_Unauthorized}, Body: noCredential.body(),
	}}
}

// TestNeverAllowedSeesWrongAnswers runs the table against sidecars whose denial is
// an allow to Envoy: each line must be seen to get through. Else the table above
// proves nothing.
func TestNeverAllowedSeesWrongAnswers(t *testing.T) {
	wrong := map[string]*auth.CheckResponse{
		"code 0 with a denied body":  {Status: &status.Status{Code: 0}, HttpResponse: deniedBody()},
		"no code with a denied body": {HttpResponse: deniedBody()},
		"nothing at all":             {},
		"code 0 with an error": {HttpResponse: &auth.CheckResponse_ErrorResponse{ErrorResponse: &auth.DeniedHttpResponse{
			Status: &kind.HttpStatus{Code: kind.StatusCode_ServiceUnavailable},
		}}},
	}
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			var answer atomic.Pointer[auth.CheckResponse]
			f := behind(t, version, func(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error) { return answer.Load(), nil })
			for what, response := range wrong {
				answer.Store(response)
				for name, r := range never(f.w.held) {
					// Owners are asked by keyd, which wants to see a session: so it is the
					// sidecar's answer that is missing there.
					if got := f.ask(t, r); !got.reached() && !fromOwners(got) {
						t.Errorf("%s, %s: not seen: %d %s", what, name, got.status, got.body)
					}
				}
			}
		})
	}
}

// fromOwners tells keyd's own refusal from the sidecar's.
func fromOwners(a answer) bool {
	return a.status == 403 && a.header.Get("X-Envoy-Upstream-Service-Time") != ""
}

// TestMisbehavingSidecar: what Envoy must make of a sidecar that fails, or that
// would write more than it may.
func TestMisbehavingSidecar(t *testing.T) {
	allowWith := func(name, value string) *auth.CheckResponse {
		return &auth.CheckResponse{Status: &status.Status{}, HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: &auth.OkHttpResponse{
			Headers: []*core.HeaderValueOption{{Header: &core.HeaderValue{Key: name, Value: value}, Append: wrapperspb.Bool(false)}},
		}}}
	}
	const split = "acc\r\nx-admin: 1"
	denyWith := func(name, value string) *auth.CheckResponse {
		denied := deniedBody()
		denied.DeniedResponse.Headers = []*core.HeaderValueOption{{Header: &core.HeaderValue{Key: name, Value: value}, Append: wrapperspb.Bool(false)}}
		return &auth.CheckResponse{Status: &status.Status{Code: 16}, HttpResponse: denied}
	}
	allowTelling := allowWith("x-phantom-account-id", "acc_1")
	allowTelling.GetOkResponse().ResponseHeadersToAdd = []*core.HeaderValueOption{{Header: &core.HeaderValue{Key: "x-told", Value: split}}}
	type reply = func(context.Context) (*auth.CheckResponse, error)
	constant := func(r *auth.CheckResponse) reply {
		return func(context.Context) (*auth.CheckResponse, error) { return r, nil }
	}
	failing := func(err error) reply {
		return func(context.Context) (*auth.CheckResponse, error) { return nil, err }
	}
	bad := map[string]reply{
		"permission denied, as an error": failing(grpcstatus.Error(codes.PermissionDenied, "no")),
		"unauthenticated, as an error":   failing(grpcstatus.Error(codes.Unauthenticated, "no")),
		"internal error":                 failing(errors.New("panic")),
		"too late":                       func(ctx context.Context) (*auth.CheckResponse, error) { <-ctx.Done(); return nil, ctx.Err() },
		"sets :path":                     constant(allowWith(":path", "/api/v1/chat")),
		"sets host":                      constant(allowWith("host", "evil.example")),
		"sets an x-envoy header":         constant(allowWith("x-envoy-original-path", "/")),
		"sets another header":            constant(allowWith("x-admin", "1")),
		"sets a value with a newline":    constant(allowWith("x-phantom-account-id", split)),
		"denies with a newline":          constant(denyWith("x-told", split)),
		"allows, telling a newline":      constant(allowTelling),
	}
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			var answer atomic.Value // of reply
			f := behind(t, version, func(ctx context.Context, _ *auth.CheckRequest) (*auth.CheckResponse, error) {
				return answer.Load().(reply)(ctx)
			})
			for what, reply := range bad {
				answer.Store(reply)
				t.Run(what, func(t *testing.T) {
					begin := time.Now()
					unavailable.check(t, f.ask(t, request{path: "/api/v1/chat"}.with(webApp)), corsHeaders...)
					if took := time.Since(begin); took > 5*time.Second {
						t.Errorf("the answer took %v", took)
					}
				})
			}
			// A denial without an HTTP status, and one with code 14, are denials.
			answer.Store(constant(&auth.CheckResponse{Status: &status.Status{Code: 7}}))
			if got := f.ask(t, request{path: "/api/v1/chat"}); got.status != 403 || got.reached() {
				t.Errorf("denied without a status: %d %s", got.status, got.body)
			}
			answer.Store(constant(allowWith("x-phantom-account-id", "acc_1")))
			if got := f.ask(t, request{path: "/api/v1/chat"}); got.status != 200 || !got.reached() {
				t.Errorf("a good answer: %d %s", got.status, got.body)
			}
		})
	}
}

// TestWhatTheSidecarSees: the sidecar receives the headers that it reads and no others, in raw form, with the
// route's requirement.
func TestWhatTheSidecarSees(t *testing.T) {
	for _, version := range versions() {
		t.Run(version, func(t *testing.T) {
			seen := make(chan *auth.CheckRequest, 1)
			f := behind(t, version, func(_ context.Context, r *auth.CheckRequest) (*auth.CheckResponse, error) {
				seen <- r
				return &auth.CheckResponse{}, nil
			})
			f.ask(t, request{path: "/api/v1/me/../chat?q=1"}.with(
				"Authorization: Bearer one", "Cookie: a=1", "Cookie: b=2", webApp, "Sec-Fetch-Site: same-site",
				"Content-Type: text/plain", "X-Phantom-Scopes: admin", "X-Other: secret", "User-Agent: test",
			))
			r := (<-seen).GetAttributes()
			headers := map[string][]string{}
			for _, h := range r.GetRequest().GetHttp().GetHeaderMap().GetHeaders() {
				if h.Key[0] != ':' {
					headers[h.Key] = append(headers[h.Key], string(h.RawValue))
				}
			}
			want := fmt.Sprint(map[string][]string{
				"authorization": {"Bearer one"}, "cookie": {"a=1", "b=2"}, "origin": {"https://app.phantomrouter.ai"},
				"sec-fetch-site": {"same-site"}, "content-type": {"text/plain"},
			})
			if got := fmt.Sprint(headers); got != want {
				t.Errorf("headers %s, want %s", got, want)
			}
			if got := r.GetRequest().GetHttp().GetPath(); got != "/api/v1/chat?q=1" {
				t.Errorf("path %q", got)
			}
			if got := fmt.Sprint(r.GetContextExtensions()); got != "map[scope:chat:companion]" {
				t.Errorf("context extensions %s", got)
			}
		})
	}
}
