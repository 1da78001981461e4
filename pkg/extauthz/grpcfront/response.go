package grpcfront

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// write makes Envoy's message of an answer. Envoy takes status.code 0 for an allow,
// also beside a denied_response, and so it does an unset status: a denial must never
// have either.
func write(a extauthz.Answer) *authv3.CheckResponse {
	resp := &authv3.CheckResponse{DynamicMetadata: metadata(a.Meta)}
	if a.Allow {
		resp.Status = &status.Status{Code: int32(codes.OK)}
		resp.HttpResponse = &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers:         headers(a.Set),
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
		Status:  &typev3.HttpStatus{Code: typev3.StatusCode(a.Status)}, //nolint:gosec // G115: statuses of the deny table
		Headers: headers(a.Set),
		Body:    a.Body,
	}}
	return resp
}

// headers are set, not appended: Envoy ignores append_action here, and the deprecated
// append alone says "overwrite" in every version. Only value is read: a header with
// raw_value alone would be set to the empty string.
func headers(list []extauthz.Header) []*corev3.HeaderValueOption {
	overwrite := wrapperspb.Bool(false)
	options := make([]*corev3.HeaderValueOption, len(list))
	for i, h := range list {
		options[i] = &corev3.HeaderValueOption{
			Header: &corev3.HeaderValue{Key: h.Name, Value: h.Value},
			Append: overwrite, //nolint:staticcheck // SA1019: the only field that Envoy heeds in these lists
		}
	}
	return options
}

func metadata(m extauthz.Metadata) *structpb.Struct {
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
