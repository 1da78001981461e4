package grpcserver_test

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz/grpcserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// source is a Source of one key. With release set it reports each look-up and waits.
type source struct {
	digest  credential.Digest
	called  chan struct{}
	release chan struct{}
}

func (s *source) Cached(credential.Digest) (rec credential.Record, found, known bool) {
	return credential.Record{}, false, false
}

func (s *source) Lookup(ctx context.Context, d credential.Digest) (credential.Record, bool, error) {
	if s.release != nil {
		s.called <- struct{}{}
		select {
		case <-s.release:
		case <-ctx.Done():
			return credential.Record{}, false, ctx.Err()
		}
	}
	return record, d == s.digest, nil
}

var record = credential.Record{
	Kind: credential.Key, ID: "key_1", State: credential.Active, Scopes: credential.NewScopes("b", "a"),
	Account: credential.Account{ID: "acc_1", State: credential.Active},
}

// noUsage discards uses.
type noUsage struct{}

func (noUsage) Used(credential.Digest, bool, time.Time) {}

var key = credential.Mint(credential.Key)

func newSource() *source { return &source{digest: key.Digest()} }

// start serves a checker on a listener until the test ends.
func start(t testing.TB, ln net.Listener, checker *extauthz.Checker, log *zap.Logger) *grpcserver.Server {
	t.Helper()
	server := grpcserver.New(checker, log, nil)
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	t.Cleanup(func() {
		server.Stop(context.Background())
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return server
}

// dial returns a client that is closed before the servers of the test stop.
func dial(t testing.TB, target string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(target, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// serve starts a server on a Unix socket and returns a client.
func serve(t testing.TB, src *source, log *zap.Logger) (*grpcserver.Server, *grpc.ClientConn) {
	t.Helper()
	rules := &extauthz.Rules{
		SessionScopes: credential.NewScopes("chat:companion"), Origin: "https://app.phantomrouter.ai", CookieName: "phantom_session",
	}
	return serveRules(t, src, rules, prometheus.NewRegistry(), log)
}

func serveRules(t testing.TB, src extauthz.Source, rules *extauthz.Rules, reg *prometheus.Registry, log *zap.Logger) (*grpcserver.Server, *grpc.ClientConn) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := start(t, ln, extauthz.NewChecker(src, noUsage{}, rules, newMetrics(reg)), log)
	return server, dial(t, "unix://"+path)
}

func message(extensions map[string]string, change func(*authv3.AttributeContext_HttpRequest)) *authv3.CheckRequest {
	http := &authv3.AttributeContext_HttpRequest{Method: "GET", Host: "h", Path: "/x"}
	change(http)
	return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
		Request: &authv3.AttributeContext_Request{Http: http}, ContextExtensions: extensions,
	}}
}

func mapped(headers map[string]string) func(*authv3.AttributeContext_HttpRequest) {
	return func(r *authv3.AttributeContext_HttpRequest) { r.Headers = headers }
}

// raw sets header_map as encode_raw_headers does: a value is in raw_value unless it is empty.
func raw(pairs ...string) func(*authv3.AttributeContext_HttpRequest) {
	return func(r *authv3.AttributeContext_HttpRequest) {
		r.HeaderMap = &corev3.HeaderMap{}
		for pair := range slices.Chunk(pairs, 2) {
			h := &corev3.HeaderValue{Key: pair[0]}
			if pair[1] != "" {
				h.RawValue = []byte(pair[1])
			}
			r.HeaderMap.Headers = append(r.HeaderMap.Headers, h)
		}
	}
}

func TestCheckReadsBothHeaderEncodings(t *testing.T) {
	_, conn := serve(t, newSource(), zap.NewNop())
	bearer := "Bearer " + key.Reveal()
	open := map[string]string{"scope": ""}
	for _, tt := range []struct {
		name   string
		msg    *authv3.CheckRequest
		reason string
	}{
		{"empty message", &authv3.CheckRequest{}, "no_credential"},
		{"no http", &authv3.CheckRequest{Attributes: &authv3.AttributeContext{}}, "no_credential"},
		{"map", message(open, mapped(map[string]string{"authorization": bearer})), "ok"},
		{"map in another case", message(open, mapped(map[string]string{"Authorization": bearer})), "ok"},
		{"map, twice in two cases", message(open, mapped(map[string]string{"Authorization": bearer, "authorization": bearer})), "malformed_authorization"},
		{"map, empty", message(open, mapped(map[string]string{"authorization": ""})), "malformed_authorization"},
		{"raw", message(open, raw("authorization", bearer)), "ok"},
		{"raw, empty", message(open, raw("authorization", "")), "malformed_authorization"},
		{"raw, twice", message(open, raw("authorization", bearer, "authorization", bearer)), "malformed_authorization"},
		{"raw, good and empty", message(open, raw("authorization", bearer, "authorization", "")), "malformed_authorization"},
		{"raw, not UTF-8", message(open, raw("authorization", "Bearer \xff")), "malformed_authorization"},
		{"raw, two cookie lines", message(open, raw("cookie", "phantom_session=a", "cookie", "phantom_session=b", "origin", "https://app.phantomrouter.ai")), "session_expired"},
		{"both encodings", message(open, func(r *authv3.AttributeContext_HttpRequest) {
			mapped(map[string]string{"authorization": bearer})(r)
			raw("authorization", bearer)(r)
		}), "malformed_authorization"},
		{"no requirement", message(nil, raw("authorization", bearer)), "no_policy"},
		{"principal alone", message(map[string]string{"principal": "session"}, raw("authorization", bearer)), "session_required"},
		{"unknown principal", message(map[string]string{"principal": "admin"}, raw("authorization", bearer)), "no_policy"},
		{"empty principal", message(map[string]string{"scope": "", "principal": ""}, raw("authorization", bearer)), "no_policy"},
		{"other extensions", message(map[string]string{"x": "y"}, raw("authorization", bearer)), "no_policy"},
		{"scope missing", message(map[string]string{"scope": "a  c d"}, raw("authorization", bearer)), "scope_missing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, err := authv3.NewAuthorizationClient(conn).Check(t.Context(), tt.msg)
			if err != nil {
				t.Fatal(err)
			}
			if got := resp.GetDynamicMetadata().GetFields()["reason"].GetStringValue(); got != tt.reason {
				t.Errorf("reason %s, want %s", got, tt.reason)
			}
			allowed := tt.reason == "ok"
			if resp.GetStatus() == nil || (resp.GetStatus().GetCode() == 0) != allowed || (resp.GetOkResponse() != nil) != allowed {
				t.Errorf("to Envoy this is not %v: %v", tt.reason, resp)
			}
			for _, h := range append(resp.GetOkResponse().GetHeaders(), resp.GetDeniedResponse().GetHeaders()...) {
				if h.GetAppend() == nil || h.GetAppend().GetValue() { //nolint:staticcheck // SA1019: Envoy reads it
					t.Errorf("%s is not set to overwrite", h.GetHeader().GetKey())
				}
			}
		})
	}
}

func TestDynamicMetadata(t *testing.T) {
	_, conn := serve(t, newSource(), zap.NewNop())
	resp, err := authv3.NewAuthorizationClient(conn).Check(t.Context(),
		message(map[string]string{"scope": "c"}, raw("authorization", "Bearer "+key.Reveal(), "X-Phantom-Admin", "1")))
	if err != nil {
		t.Fatal(err)
	}
	got := resp.GetDynamicMetadata().AsMap()
	want := map[string]any{
		"decision": "deny", "reason": "scope_missing", "account_id": "acc_1", "credential_id": "key_1", "principal": "key", "scopes": []any{"a", "b"},
	}
	if len(got) != len(want) {
		t.Errorf("%v", got)
	}
	for name, value := range want {
		if list, ok := value.([]any); ok {
			if !slices.Equal(got[name].([]any), list) {
				t.Errorf("%s: %v", name, got[name])
			}
		} else if got[name] != value {
			t.Errorf("%s: %v", name, got[name])
		}
	}
	resp, err = authv3.NewAuthorizationClient(conn).Check(t.Context(), &authv3.CheckRequest{})
	if fields := resp.GetDynamicMetadata().GetFields(); err != nil || len(fields) != 2 {
		t.Errorf("no credential: %v, %v", fields, err)
	}
}

// Reserved headers are removed in both encodings and in any spelling, except the ones that are set.
func TestReservedHeadersAreRemovedAsSent(t *testing.T) {
	_, conn := serve(t, newSource(), zap.NewNop())
	sent := []string{"X-Phantom-Account-Id", "x_phantom_account_id", "X-Phantom_Account-Id", "x-phantom-admin", "X_PHANTOM_admin"}
	want := slices.Sorted(slices.Values(append(sent[1:], "authorization")))
	headers, list := map[string]string{"authorization": "Bearer " + key.Reveal()}, []string{"authorization", "Bearer " + key.Reveal()}
	for _, name := range sent {
		headers[name] = "acc_other"
		list = append(list, name, "acc_other")
	}
	for mode, msg := range map[string]*authv3.CheckRequest{
		"map": message(map[string]string{"scope": ""}, mapped(headers)), "raw": message(map[string]string{"scope": ""}, raw(list...)),
	} {
		resp, err := authv3.NewAuthorizationClient(conn).Check(t.Context(), msg)
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Sorted(slices.Values(resp.GetOkResponse().GetHeadersToRemove())); !slices.Equal(got, want) {
			t.Errorf("%s: removed %q, want %q", mode, got, want)
		}
		if got := resp.GetOkResponse().GetHeaders()[0].GetHeader(); got.GetKey() != "x-phantom-account-id" || got.GetValue() != "acc_1" {
			t.Errorf("%s: set %v", mode, got)
		}
	}
}

func TestHealthFollowsServing(t *testing.T) {
	server, conn := serve(t, newSource(), zap.NewNop())
	client := healthv1.NewHealthClient(conn)
	for _, serving := range []bool{false, true} {
		server.SetServing(serving)
		for _, service := range []string{"", "envoy.service.auth.v3.Authorization"} {
			resp, err := client.Check(t.Context(), &healthv1.HealthCheckRequest{Service: service})
			if err != nil || (resp.GetStatus() == healthv1.HealthCheckResponse_SERVING) != serving {
				t.Errorf("%q: %v, %v", service, resp, err)
			}
		}
	}
}

func TestStopWaitsForChecksInFlight(t *testing.T) {
	src := newSource()
	src.called, src.release = make(chan struct{}), make(chan struct{})
	server, conn := serve(t, src, zap.NewNop())
	type result struct {
		resp *authv3.CheckResponse
		err  error
	}
	answered := make(chan result, 1)
	go func() {
		resp, err := authv3.NewAuthorizationClient(conn).Check(context.Background(),
			message(map[string]string{"scope": ""}, raw("authorization", "Bearer "+key.Reveal())))
		answered <- result{resp, err}
	}()
	<-src.called
	stopped := make(chan struct{})
	go func() { defer close(stopped); server.Stop(context.Background()) }()
	close(src.release)
	if r := <-answered; r.err != nil || r.resp.GetStatus().GetCode() != 0 {
		t.Errorf("%v, %v", r.resp, r.err)
	}
	<-stopped
}

func TestStopCancelsChecksAtItsDeadline(t *testing.T) {
	src := newSource()
	src.called, src.release = make(chan struct{}), make(chan struct{})
	server, conn := serve(t, src, zap.NewNop())
	failed := make(chan error, 1)
	go func() {
		_, err := authv3.NewAuthorizationClient(conn).Check(context.Background(), message(nil, raw("authorization", "Bearer "+key.Reveal())))
		failed <- err
	}()
	<-src.called
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	server.Stop(ctx)
	if err := <-failed; err == nil {
		t.Error("a cancelled check was answered")
	}
}

// FuzzCheckRequest tests that no bytes cause a panic or an allow.
func FuzzCheckRequest(f *testing.F) {
	for _, msg := range []*authv3.CheckRequest{
		{}, message(nil, raw("authorization", "Bearer x")), message(map[string]string{"scope": "a"}, mapped(map[string]string{"cookie": "phantom_session=a"})),
	} {
		b, err := proto.Marshal(msg)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{0x0a, 0xff, 0xff})
	check := grpcserver.Direct(extauthz.NewChecker(newSource(), noUsage{}, &extauthz.Rules{CookieName: "s"}, extauthz.NewMetrics(prometheus.NewRegistry(), nil)))
	f.Fuzz(func(t *testing.T, b []byte) {
		answer, err := check(t.Context(), b)
		if err != nil {
			return
		}
		resp := new(authv3.CheckResponse)
		if err := proto.Unmarshal(answer.Materialize(), resp); err != nil || resp.GetStatus().GetCode() == 0 || resp.GetDeniedResponse() == nil {
			t.Fatalf("%q: %v, %v", b, resp, err)
		}
	})
}
