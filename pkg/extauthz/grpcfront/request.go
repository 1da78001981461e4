package grpcfront

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/phantomrouter/phantom-authz/pkg/extauthz"
)

// Keys of check_settings.context_extensions that tell an endpoint's requirement.
const (
	scopeExtension     = "scope"
	principalExtension = "principal"
)

// read takes from a CheckRequest what the core needs. Whatever is missing in the
// message is missing in the Request, and a Request without a credential is denied.
//
// Envoy sends headers either as a map, in which repeated ones are joined with ',',
// or with encode_raw_headers as a list that keeps most of them apart, with the
// values in raw_value (HttpRequest.header_map).
func read(msg *authv3.CheckRequest) *extauthz.Request {
	attributes := msg.GetAttributes()
	http := attributes.GetRequest().GetHttp()
	req := &extauthz.Request{Method: http.GetMethod(), Host: http.GetHost(), Path: http.GetPath()}

	for name, value := range http.GetHeaders() {
		add(req, name, value)
	}
	for _, header := range http.GetHeaderMap().GetHeaders() {
		add(req, header.GetKey(), valueOf(header))
	}

	extensions := attributes.GetContextExtensions()
	scope, hasScope := extensions[scopeExtension]
	principal, hasPrincipal := extensions[principalExtension]
	req.Route = extauthz.RouteRequirement{Set: hasScope || hasPrincipal, Scope: scope, Principal: principal}
	return req
}

// valueOf returns a raw value where there is one: an empty value comes as an entry
// with neither.
func valueOf(header *corev3.HeaderValue) string {
	if raw := header.GetRawValue(); len(raw) > 0 {
		return string(raw)
	}
	return header.GetValue()
}

func add(req *extauthz.Request, name, value string) {
	switch name = strings.ToLower(name); name {
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
		if strings.HasPrefix(name, extauthz.ForeignPrefix) {
			req.Foreign = append(req.Foreign, name)
		}
	}
}
