package envoymodule

import (
	"context"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz/grpcserver"
)

// effect is what a front makes of a request.
type effect struct {
	Passed   bool
	Headers  map[string][]string // at the upstream, of one that passed
	Status   int                 // of a denial
	Reply    []string            // headers of a denial
	Body     string
	Metadata map[string]any
}

// The gRPC server and the module answer each request alike, with the same metadata.
func TestFrontsAgree(t *testing.T) {
	eachMode(t, func(t *testing.T, misses, shadow bool) {
		e := newEngine(t)
		e.misses, e.rules.Shadow = misses, shadow
		f := e.factory(t)
		client := serveGRPC(t, f.Checker)
		for _, tt := range checks {
			s := settled(t, f, routeOf(t, tt.route), tt.headers...)
			if diff := cmp.Diff(overGRPC(t, client, tt.route, tt.headers), effectOf(s), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s (-gRPC +module):\n%s", tt.name, diff)
			}
		}
	})
}

func effectOf(s *stream) effect {
	s.t.Helper()
	x := effect{Passed: s.passed(), Metadata: maps.Clone(s.metadata)}
	delete(x.Metadata, "check_us") // ext_authz measures the time itself
	if x.Passed {
		x.Headers = s.headers.all()
		return x
	}
	x.Status, x.Body = int(s.replies[0].status), s.replies[0].body
	for _, h := range s.replies[0].headers {
		x.Reply = append(x.Reply, h[0]+": "+h[1])
	}
	return x
}

// serveGRPC serves a checker as authzd does.
func serveGRPC(t *testing.T, checker *extauthz.Checker) authv3.AuthorizationClient {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpcserver.New(checker, zap.NewNop(), nil)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop(context.Background())
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return authv3.NewAuthorizationClient(conn)
}

// overGRPC sends a request as ext_authz does with encode_raw_headers, and applies the answer as it does.
func overGRPC(t *testing.T, client authv3.AuthorizationClient, route *extauthz.RouteRequirement, headers []string) effect {
	t.Helper()
	request := &authv3.AttributeContext_HttpRequest{HeaderMap: &corev3.HeaderMap{}}
	upstream := map[string][]string{}
	for _, header := range headers {
		name, value, _ := strings.Cut(header[1:], ": ")
		name = header[:1] + name
		switch name {
		case ":method":
			request.Method = value
		case ":path":
			request.Path = value
		case ":authority":
			request.Host = value
		}
		request.HeaderMap.Headers = append(request.HeaderMap.Headers, &corev3.HeaderValue{Key: name, RawValue: []byte(value)})
		upstream[name] = append(upstream[name], value)
	}
	attributes := &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{Http: request}}
	if route != nil {
		attributes.ContextExtensions = map[string]string{"scope": route.Scope}
		if route.HasPrincipal {
			attributes.ContextExtensions["principal"] = route.Principal
		}
	}
	answer, err := client.Check(t.Context(), &authv3.CheckRequest{Attributes: attributes})
	if err != nil {
		t.Fatal(err)
	}
	x := effect{Passed: answer.GetStatus().GetCode() == 0, Metadata: metadataOf(answer)}
	if !x.Passed {
		denied := answer.GetDeniedResponse()
		x.Status, x.Body, x.Reply = int(denied.GetStatus().GetCode()), denied.GetBody(), optionsOf(denied.GetHeaders())
		return x
	}
	x.Headers = upstream
	for _, option := range answer.GetOkResponse().GetHeaders() {
		// The one difference: the module cannot set an empty header, it removes it.
		delete(upstream, option.GetHeader().GetKey())
		if value := option.GetHeader().GetValue(); value != "" {
			upstream[option.GetHeader().GetKey()] = []string{value}
		}
	}
	for _, name := range answer.GetOkResponse().GetHeadersToRemove() {
		delete(upstream, name)
	}
	return x
}

func optionsOf(options []*corev3.HeaderValueOption) (list []string) {
	for _, option := range options {
		list = append(list, option.GetHeader().GetKey()+": "+option.GetHeader().GetValue())
	}
	return list
}

// metadataOf returns the dynamic metadata of an answer.
func metadataOf(answer *authv3.CheckResponse) map[string]any {
	fields := answer.GetDynamicMetadata().AsMap()
	for name, value := range fields {
		list, ok := value.([]any)
		if !ok {
			continue
		}
		// The other difference: the module cannot set an empty list.
		if delete(fields, name); len(list) > 0 {
			var names []string
			for _, v := range list {
				names = append(names, v.(string))
			}
			fields[name] = slices.Clip(names)
		}
	}
	return fields
}
