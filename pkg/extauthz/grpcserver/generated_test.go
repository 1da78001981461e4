package grpcserver

import (
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// The tests of this file compare with the generated types.

// FuzzRead tests that every message that the generated types can read is read in the same way.
func FuzzRead(f *testing.F) {
	for _, msg := range messages() {
		b, err := proto.Marshal(msg)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(append(b, b...)) // two messages in one field are merged
	}
	f.Add([]byte{0x0a, 0xff, 0xff})
	f.Add([]byte{0x0a, 0x02, 0x22, 0x80})
	f.Fuzz(func(t *testing.T, b []byte) { compareReading(t, b) })
}

func compareReading(t interface{ Fatalf(string, ...any) }, b []byte) {
	msg := new(authv3.CheckRequest)
	if proto.Unmarshal(b, msg) != nil || !asciiNames(msg) {
		_ = new(exchange).read(b) // must not panic
		return
	}
	var got exchange
	if err := got.read(b); err != nil {
		t.Fatalf("%v: %v", msg, err)
	}
	want := readGenerated(msg)
	for _, r := range []*extauthz.Request{&got.Request, want} { // a map of the generated types has no order
		for _, list := range [][]string{r.Authorization, r.Cookie, r.Origin, r.SecFetchSite, r.ContentType, r.Reserved} {
			slices.Sort(list)
		}
	}
	if diff := gocmp.Diff(*want, got.Request); diff != "" {
		t.Fatalf("%v (-generated +own):\n%s", msg, diff)
	}
}

// asciiNames reports whether all header names are ASCII. Envoy rejects others (RFC 9110 section 5.1).
func asciiNames(msg *authv3.CheckRequest) bool {
	http := msg.GetAttributes().GetRequest().GetHttp()
	odd := func(name string) bool { return strings.ContainsFunc(name, func(r rune) bool { return r >= 0x80 }) }
	for name := range http.GetHeaders() {
		if odd(name) {
			return false
		}
	}
	return !slices.ContainsFunc(http.GetHeaderMap().GetHeaders(), func(h *corev3.HeaderValue) bool { return odd(h.GetKey()) })
}

func messages() []*authv3.CheckRequest {
	headers := map[string]string{"authorization": "Bearer x", "Cookie": "a=b", "x-phantom-Admin": "1", "accept": "*/*", "sec-fetch-site": "same-origin"}
	list := &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
		{Key: "authorization", RawValue: []byte("Bearer \xff")},
		{Key: "origin", Value: "a", RawValue: []byte("b")},
		{Key: "content-type"},
		{Key: "X-PHANTOM-ACCOUNT-ID", Value: "acc"},
		{Key: "cookie", Value: "c"},
		{Key: "cookie", Value: "d"},
	}}
	at := func(http *authv3.AttributeContext_HttpRequest, extensions map[string]string) *authv3.CheckRequest {
		return &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
			Source: &authv3.AttributeContext_Peer{Principal: "spiffe://x"}, ContextExtensions: extensions,
			Request: &authv3.AttributeContext_Request{Http: http},
		}}
	}
	return []*authv3.CheckRequest{
		{},
		at(nil, map[string]string{"scope": ""}),
		at(&authv3.AttributeContext_HttpRequest{Method: "GET", Path: "/a?b", Host: "h", Headers: headers, Id: "1", Size: 7, Body: "b"}, nil),
		at(&authv3.AttributeContext_HttpRequest{Method: "POST", HeaderMap: list, RawBody: []byte("\xff")}, map[string]string{"scope": "a b", "principal": "any", "x": "y"}),
	}
}

func TestWriteMatchesGeneratedTypes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.OneOf(rapid.Just(""), rapid.String(), rapid.StringN(120, 20_000, -1))
		list := rapid.Custom(func(t *rapid.T) extauthz.Header {
			return extauthz.Header{Name: texts.Draw(t, "name"), Value: texts.Draw(t, "value")}
		})
		a := extauthz.Answer{
			Allow: rapid.Bool().Draw(t, "allow"), Code: rapid.SampledFrom([]int32{0, 7, 8, 14, 16}).Draw(t, "code"),
			Status: rapid.SampledFrom([]int{0, 401, 403, 429, 503}).Draw(t, "status"), Body: texts.Draw(t, "body"),
			Set: rapid.SliceOf(list).Draw(t, "set"), Remove: rapid.SliceOf(texts).Draw(t, "remove"),
			Meta: extauthz.Metadata{
				Decision: texts.Draw(t, "decision"), ShadowDecision: texts.Draw(t, "shadow"), Reason: texts.Draw(t, "reason"),
				AccountID: texts.Draw(t, "account"), CredentialID: texts.Draw(t, "credential"), Principal: texts.Draw(t, "principal"),
				Scopes: credential.NewScopes(rapid.SliceOfN(rapid.StringMatching("[a-z:]{1,9}"), 0, 4).Draw(t, "scopes")...),
			},
		}
		got := new(authv3.CheckResponse)
		if err := proto.Unmarshal(write(nil, &a), got); err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(writeGenerated(a), got, protocmp.Transform()); diff != "" {
			t.Fatalf("(-generated +own):\n%s", diff)
		}
		if allowed := got.GetStatus() == nil || got.GetStatus().GetCode() == 0; allowed != a.Allow {
			t.Fatalf("to Envoy allow is %v: %v", allowed, got)
		}
	})
}

// readGenerated is exchange.read with the generated types.
func readGenerated(msg *authv3.CheckRequest) *extauthz.Request {
	attributes := msg.GetAttributes()
	http := attributes.GetRequest().GetHttp()
	req := &extauthz.Request{Method: http.GetMethod(), Host: http.GetHost(), Path: http.GetPath()}

	for name, value := range http.GetHeaders() {
		addGenerated(req, name, value)
	}
	for _, header := range http.GetHeaderMap().GetHeaders() {
		addGenerated(req, header.GetKey(), valueOf(header))
	}

	extensions := attributes.GetContextExtensions()
	scope, hasScope := extensions[scopeExtension]
	principal, hasPrincipal := extensions[principalExtension]
	req.Route = extauthz.RouteRequirement{Set: hasScope || hasPrincipal, HasPrincipal: hasPrincipal, Scope: scope, Principal: principal}
	return req
}

// valueOf returns the raw value if there is one. An empty value is an entry without both.
func valueOf(header *corev3.HeaderValue) string {
	if raw := header.GetRawValue(); len(raw) > 0 {
		return string(raw)
	}
	return header.GetValue()
}

func addGenerated(req *extauthz.Request, name, value string) {
	switch strings.ToLower(name) {
	case "authorization":
		req.Authorization = append(req.Authorization, value)
	case "cookie":
		req.Cookie = append(req.Cookie, value)
	case "origin":
		req.Origin = append(req.Origin, value)
	case "sec-fetch-site":
		req.SecFetchSite = append(req.SecFetchSite, value)
	case "content-type":
		req.ContentType = append(req.ContentType, value)
	default:
		if strings.HasPrefix(strings.ReplaceAll(strings.ToLower(name), "_", "-"), "x-phantom-") {
			req.Reserved = append(req.Reserved, name)
		}
	}
}

// writeGenerated is write with the generated types.
func writeGenerated(a extauthz.Answer) *authv3.CheckResponse {
	resp := &authv3.CheckResponse{DynamicMetadata: metadataGenerated(a.Meta)}
	if a.Allow {
		resp.Status = &status.Status{Code: int32(codes.OK)}
		resp.HttpResponse = &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers:         headersGenerated(a.Set),
			HeadersToRemove: a.Remove,
		}}
		return resp
	}
	code := a.Code
	if code == int32(codes.OK) {
		code = int32(codes.Unavailable)
	}
	resp.Status = &status.Status{Code: code}
	resp.HttpResponse = &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
		Status:  &typev3.HttpStatus{Code: typev3.StatusCode(a.Status)},
		Headers: headersGenerated(a.Set),
		Body:    a.Body,
	}}
	return resp
}

func headersGenerated(list []extauthz.Header) []*corev3.HeaderValueOption {
	overwrite := wrapperspb.Bool(false)
	options := make([]*corev3.HeaderValueOption, len(list))
	for i, h := range list {
		options[i] = &corev3.HeaderValueOption{
			Header: &corev3.HeaderValue{Key: h.Name, Value: h.Value},
			Append: overwrite, //nolint:staticcheck // SA1019: the only field that Envoy reads in these lists
		}
	}
	return options
}

func metadataGenerated(m extauthz.Metadata) *structpb.Struct {
	fields := make(map[string]*structpb.Value, 7)
	for _, f := range []struct{ name, value string }{
		{"decision", m.Decision},
		{"shadow_decision", m.ShadowDecision},
		{"reason", m.Reason},
		{"account_id", m.AccountID},
		{"credential_id", m.CredentialID},
		{"principal", m.Principal},
	} {
		if f.value != "" {
			fields[f.name] = structpb.NewStringValue(f.value)
		}
	}
	if m.Principal != "" {
		scopes := make([]*structpb.Value, 0, m.Scopes.Len())
		for _, name := range m.Scopes.List() {
			scopes = append(scopes, structpb.NewStringValue(name))
		}
		fields["scopes"] = structpb.NewListValue(&structpb.ListValue{Values: scopes})
	}
	return &structpb.Struct{Fields: fields}
}
