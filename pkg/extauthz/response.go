package extauthz

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

// Header is one header to be set. Its value overwrites.
type Header struct{ Name, Value string }

// Answer is what a proxy is told. The zero Answer is no allow: fronts take Code 0 for
// one only if Allow is set.
type Answer struct {
	Allow  bool
	Code   int32 // gRPC status: 0 if and only if Allow
	Status int   // HTTP status of a denial
	Body   string
	Set    []Header // an allow: on the way upstream; a denial: in the answer to the client
	Remove []string // an allow: on the way upstream; never a name that Set has
	Meta   Metadata
}

// Metadata is what the proxy's access log and filters may know of a check. Empty
// fields are not known.
type Metadata struct {
	Decision       string // allow or deny: what the proxy is told
	ShadowDecision string // in shadow mode: what it would have been told
	Reason         string
	AccountID      string
	CredentialID   string
	Principal      string
	Scopes         credential.Scopes
}

func (r *Rules) answer(req *Request, d policy.Decision) Answer {
	meta := Metadata{
		Decision:     verdict(d),
		Reason:       d.Reason.String(),
		AccountID:    d.AccountID,
		CredentialID: d.CredentialID,
		Principal:    d.Kind.String(),
		Scopes:       d.Scopes,
	}
	var a Answer
	switch {
	case r.Shadow:
		meta.Decision, meta.ShadowDecision = "allow", meta.Decision
		a = shadowed(req, d)
	case d.Allowed():
		a = r.allow(req, d)
	default:
		a = deny(req, d)
	}
	a.Meta = meta
	return a
}

func verdict(d policy.Decision) string {
	if d.Allowed() {
		return "allow"
	}
	return "deny"
}

// allow gives the upstream the identity and keeps the credential from it.
func (r *Rules) allow(req *Request, d policy.Decision) Answer {
	a := Answer{Allow: true, Set: identity(d), Remove: reservedNames(req)}
	if len(req.Authorization) > 0 {
		a.Remove = append(a.Remove, "authorization")
	}
	if rest, changed := otherCookies(req.Cookie, r.CookieName); changed {
		if rest == "" {
			a.Remove = append(a.Remove, "cookie")
		} else {
			a.Set = append(a.Set, Header{"cookie", rest})
		}
	}
	return a
}

// shadowed lets the request through with its credential untouched, so that the
// upstream may still check it by itself. A client's own x-phantom-* headers are removed in
// shadow mode too: an upstream that trusts them must not take a client's word.
func shadowed(req *Request, d policy.Decision) Answer {
	a := Answer{Allow: true, Remove: reservedNames(req)}
	if d.Allowed() {
		a.Set = identity(d)
	} else {
		// Nobody vouches for these; a front without early stripping would let them pass.
		a.Remove = append(a.Remove, credential.AccountHeader, credential.PrincipalHeader, credential.CredentialHeader, credential.ScopesHeader)
	}
	return a
}

func identity(d policy.Decision) []Header {
	return []Header{
		{credential.AccountHeader, d.AccountID},
		{credential.PrincipalHeader, d.Kind.String()},
		{credential.CredentialHeader, d.CredentialID},
		{credential.ScopesHeader, d.Scopes.String()},
	}
}

// reservedNames are the client's x-phantom-* headers less those that identity sets:
// Envoy removes last, so a name must not stand in both. A name with '_' in place of '-' is
// another header to Envoy, and is removed.
func reservedNames(req *Request) []string {
	var names []string
	for _, name := range req.Reserved {
		switch strings.ToLower(name) {
		case credential.AccountHeader, credential.PrincipalHeader, credential.CredentialHeader, credential.ScopesHeader:
		default:
			names = append(names, name)
		}
	}
	return names
}

// Failed is the answer to a check of which nothing is known, because the check ended in a panic:
// the row "unavailable", in shadow mode too.
func Failed() Answer {
	d := policy.Deny(policy.Unavailable)
	a := deny(&Request{}, d)
	a.Meta = Metadata{Decision: verdict(d), Reason: d.Reason.String()}
	return a
}

func deny(req *Request, d policy.Decision) Answer {
	a := Answer{Code: d.Code(), Status: d.Status()}
	if fromGRPC(req.ContentType) {
		a.Set = append(a.Set,
			Header{"grpc-status", strconv.Itoa(int(d.Code()))},
			Header{"grpc-message", grpcMessage(d.Message())})
	} else {
		a.Body = body(d)
		a.Set = append(a.Set, Header{"content-type", "application/json"})
	}
	a.Set = append(a.Set, Header{"cache-control", "no-store"})
	if challenge := d.Challenge(); challenge != "" {
		a.Set = append(a.Set, Header{"www-authenticate", challenge})
	}
	if d.RetryAfter() {
		a.Set = append(a.Set, Header{"retry-after", "1"})
	}
	return a
}

// body writes the three fields in the order of the contract. Names and messages hold
// nothing that JSON would escape but what a scope may: strconv would not do, since
// its escapes are Go's.
func body(d policy.Decision) string {
	return `{"error":"` + d.ErrorName() + `","message":"` + d.Message() + `","statusCode":` + strconv.Itoa(d.Status()) + `}`
}

// grpcMessage percent-encodes as gRPC over HTTP/2 says of Status-Message: all but
// printable ASCII, and '%' itself.
func grpcMessage(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
