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

	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// mustBeDenied returns requests that must never pass the sidecar.
func mustBeDenied(c testbed.Credentials) map[string]request {
	chat := request{path: "/api/v1/chat"}
	keys := request{path: "/api/v1/me/keys"}
	return map[string]request{
		"no credential on chat":                  chat,
		"no credential on an unknown path":       {path: "/"},
		"no credential, HTTP/2":                  {path: "/api/v1/chat", http2: true},
		"no credential, POST":                    {method: "POST", path: "/api/v1/chat", body: "{}"},
		"no credential, OPTIONS":                 {method: "OPTIONS", path: "/api/v1/chat"},
		"no credential, upgrade":                 chat.with("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
		"identity headers only":                  chat.with("X-Phantom-Account-Id: "+c.Account, "X-Phantom-Principal: key", "X-Phantom-Scopes: chat:companion"),
		"an unknown key":                         chat.with(bearer(c.Unknown)),
		"a revoked key":                          chat.with(bearer(c.Revoked)),
		"an expired key":                         chat.with(bearer(c.Expired)),
		"a key of a terminated account":          chat.with(bearer(c.Terminated)),
		"a key without the scope":                chat.with(bearer(c.Plain)),
		"a key without the scope, other slashes": request{path: "//api/v1/./chat"}.with(bearer(c.Plain)),
		"two keys":                               chat.with(bearer(c.Chat), bearer(c.Unknown)),
		"a key in the query":                     {path: "/api/v1/chat?key=" + c.Chat},
		"a key in the cookie":                    chat.with(webApp, cookie(c.Chat)),
		"a session as a key":                     chat.with(bearer(c.Session)),
		"a session of another origin":            keys.with(otherOrigin, cookie(c.Session)),
		"a session without an origin":            keys.with(cookie(c.Session)),
		"an ended session":                       keys.with(webApp, cookie(c.EndedSession)),
		"a key on owners' keys":                  keys.with(bearer(c.Chat)),
		"a key on billing":                       request{path: "/api/v1/me/billing"}.with(bearer(c.Chat)),
		"a good key where nothing is required":   request{path: "/internal"}.with(bearer(c.Chat)),
	}
}

func TestNeverAllowed(t *testing.T) { onEach(t, checkNeverAllowed) }

func checkNeverAllowed(t *testing.T, p *proxy) {
	for name, r := range mustBeDenied(p.env.creds) {
		if got := p.do(t, r); got.reached() || got.status < 400 {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
}

func deniedBody() *auth.CheckResponse_DeniedResponse {
	return &auth.CheckResponse_DeniedResponse{DeniedResponse: &auth.DeniedHttpResponse{
		Status: &kind.HttpStatus{Code: kind.StatusCode_Unauthorized}, Body: noCredential.body(),
	}}
}

// TestNeverAllowedDetectsWrongAnswers runs the same requests against sidecars whose denial is an allow to Envoy. Each must
// pass, or TestNeverAllowed proves nothing.
func TestNeverAllowedDetectsWrongAnswers(t *testing.T) {
	wrong := map[string]*auth.CheckResponse{
		"code 0 with a denied body":  {Status: &status.Status{Code: 0}, HttpResponse: deniedBody()},
		"no code with a denied body": {HttpResponse: deniedBody()},
		"empty response":             {},
		"code 0 with an error": {HttpResponse: &auth.CheckResponse_ErrorResponse{ErrorResponse: &auth.DeniedHttpResponse{
			Status: &kind.HttpStatus{Code: kind.StatusCode_ServiceUnavailable},
		}}},
	}
	forEach(t, func(t *testing.T, env *environment, s setup) {
		var answer atomic.Pointer[auth.CheckResponse]
		p := withSidecar(t, env, s, func(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error) { return answer.Load(), nil })
		for what, response := range wrong {
			answer.Store(response)
			for name, r := range mustBeDenied(p.env.creds) {
				// keyd refuses an owner's request without a session, which the sidecar would report.
				if got := p.do(t, r); !got.reached() && !fromOwners(got) {
					t.Errorf("%s, %s: did not pass: %d %s", what, name, got.status, got.body)
				}
			}
		}
	})
}

// fromOwners reports whether keyd refused the request, and not the sidecar.
func fromOwners(a answer) bool {
	return a.status == 403 && a.header.Get("X-Envoy-Upstream-Service-Time") != ""
}

// TestInvalidSidecarAnswersBecome503: the sidecar fails, or writes headers that it must not write.
func TestInvalidSidecarAnswersBecome503(t *testing.T) {
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
	allowWithResponseHeader := allowWith("x-phantom-account-id", "acc_1")
	allowWithResponseHeader.GetOkResponse().ResponseHeadersToAdd = []*core.HeaderValueOption{{Header: &core.HeaderValue{Key: "x-response", Value: split}}}
	type reply = func(context.Context) (*auth.CheckResponse, error)
	constant := func(r *auth.CheckResponse) reply {
		return func(context.Context) (*auth.CheckResponse, error) { return r, nil }
	}
	failing := func(err error) reply {
		return func(context.Context) (*auth.CheckResponse, error) { return nil, err }
	}
	bad := map[string]reply{
		"permission denied, as an error":  failing(grpcstatus.Error(codes.PermissionDenied, "no")),
		"unauthenticated, as an error":    failing(grpcstatus.Error(codes.Unauthenticated, "no")),
		"internal error":                  failing(errors.New("panic")),
		"too late":                        func(ctx context.Context) (*auth.CheckResponse, error) { <-ctx.Done(); return nil, ctx.Err() },
		"sets :path":                      constant(allowWith(":path", "/api/v1/chat")),
		"sets host":                       constant(allowWith("host", "evil.example")),
		"sets an x-envoy header":          constant(allowWith("x-envoy-original-path", "/")),
		"sets another header":             constant(allowWith("x-admin", "1")),
		"sets a value with a newline":     constant(allowWith("x-phantom-account-id", split)),
		"denies with a newline":           constant(denyWith("x-response", split)),
		"allows, response header newline": constant(allowWithResponseHeader),
	}
	forEach(t, func(t *testing.T, env *environment, s setup) {
		var answer atomic.Value // of reply
		p := withSidecar(t, env, s, func(ctx context.Context, _ *auth.CheckRequest) (*auth.CheckResponse, error) {
			return answer.Load().(reply)(ctx)
		})
		for what, reply := range bad {
			answer.Store(reply)
			t.Run(what, func(t *testing.T) {
				begin := time.Now()
				unavailable.check(t, p.do(t, request{path: "/api/v1/chat"}.with(webApp)), corsHeaders...)
				if took := time.Since(begin); took > 5*time.Second {
					t.Errorf("the answer took %v", took)
				}
			})
		}
		// A denial without an HTTP status is a denial.
		answer.Store(constant(&auth.CheckResponse{Status: &status.Status{Code: 7}}))
		if got := p.do(t, request{path: "/api/v1/chat"}); got.status != 403 || got.reached() {
			t.Errorf("denied without a status: %d %s", got.status, got.body)
		}
		answer.Store(constant(allowWith("x-phantom-account-id", "acc_1")))
		if got := p.do(t, request{path: "/api/v1/chat"}); got.status != 200 || !got.reached() {
			t.Errorf("valid answer: %d %s", got.status, got.body)
		}
	})
}

// TestSidecarReceivesItsHeadersOnly: unchanged, with the requirement of the route.
func TestSidecarReceivesItsHeadersOnly(t *testing.T) {
	forEach(t, func(t *testing.T, env *environment, s setup) {
		checks := make(chan *auth.CheckRequest, 1)
		p := withSidecar(t, env, s, func(_ context.Context, r *auth.CheckRequest) (*auth.CheckResponse, error) {
			checks <- r
			return &auth.CheckResponse{}, nil
		})
		p.do(t, request{path: "/api/v1/me/../chat?q=1"}.with(
			"Authorization: Bearer one", "Cookie: a=1", "Cookie: b=2", webApp, "Sec-Fetch-Site: same-site",
			"Content-Type: text/plain", "X-Phantom-Scopes: admin", "X-Other: secret", "User-Agent: test",
		))
		r := (<-checks).GetAttributes()
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
