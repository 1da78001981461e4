package extauthz

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

// Header is a header to set. Its value overwrites.
type Header struct{ Name, Value string }

// Answer is the answer to a proxy. The zero Answer is a denial, although its Code is 0.
type Answer struct {
	Allow  bool
	Code   int32 // gRPC status: 0 if and only if Allow
	Status int   // HTTP status of a denial
	Body   string
	Set    []Header // allow: of the request to the upstream; denial: of the response to the client
	Remove []string // allow: of the request to the upstream; has no name that Set has
	Meta   Metadata
}

// Metadata is for the proxy's access log and filters. Unknown fields are empty.
type Metadata struct {
	Decision       string // allow or deny
	ShadowDecision string // in shadow mode: what Decision would have been
	Reason         string
	AccountID      string
	CredentialID   string
	Principal      string
	Scopes         credential.Scopes
}

// Text is one text of the metadata with its key.
type Text struct{ Key, Value string }

// Texts returns all fields but Scopes, with the keys that the contract gives them. A front leaves out
// those that are empty.
func (m *Metadata) Texts() [6]Text {
	return [...]Text{
		{"decision", m.Decision},
		{"shadow_decision", m.ShadowDecision},
		{"reason", m.Reason},
		{"account_id", m.AccountID},
		{"credential_id", m.CredentialID},
		{"principal", m.Principal},
	}
}

// lists is memory for the lists of an answer, as many as most answers have. Longer lists are allocated.
type lists struct {
	set    [5]Header
	remove [2]string
}

func (r *Rules) answer(req *Request, d policy.Decision, l *lists) Answer {
	meta := Metadata{
		Decision:     decisionName(d),
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
		a = shadowed(req, d, l)
	case d.Allowed():
		a = r.allow(req, d, l)
	default:
		a = deny(req, d.Denial(), l)
	}
	a.Meta = meta
	return a
}

func decisionName(d policy.Decision) string {
	if d.Allowed() {
		return "allow"
	}
	return "deny"
}

// allow adds the identity to the upstream request and removes the credential.
func (r *Rules) allow(req *Request, d policy.Decision, l *lists) Answer {
	a := Answer{Allow: true, Set: identity(l.set[:0], d), Remove: reservedNames(l.remove[:0], req)}
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

// otherCookies returns the Cookie header without the session cookie, and whether it contained one.
// A proxy may have joined two lines with ',', so a pair with the session cookie behind a comma is
// removed too. So are pairs that are not UTF-8, which the strings of an answer must be.
func otherCookies(headers []string, name string) (rest string, changed bool) {
	if !slices.ContainsFunc(headers, func(h string) bool { return strings.Contains(h, name) }) {
		return "", false
	}
	var kept strings.Builder
	for _, header := range headers {
		for pair := range strings.SplitSeq(header, ";") {
			pair = trimOWS(pair)
			switch {
			case pair == "":
			case holdsCookie(pair, name):
				changed = true
			case utf8.ValidString(pair):
				if kept.Len() > 0 {
					kept.WriteString("; ")
				}
				kept.WriteString(pair)
			}
		}
	}
	return kept.String(), changed
}

// holdsCookie reports whether a less strict parser than sessionCookie could find the session cookie
// in a pair: behind a comma, or with a space around its name.
func holdsCookie(pair, name string) bool {
	for part := range strings.SplitSeq(pair, ",") {
		if n, _, _ := strings.Cut(part, "="); trimOWS(n) == name {
			return true
		}
	}
	return false
}

// shadowed allows the request and keeps its credential, so that the upstream can still check it. A
// client's own reserved headers are removed, because an upstream may trust them.
func shadowed(req *Request, d policy.Decision, l *lists) Answer {
	a := Answer{Allow: true, Remove: reservedNames(l.remove[:0], req)}
	if d.Allowed() {
		a.Set = identity(l.set[:0], d)
	} else {
		a.Remove = append(a.Remove, credential.AccountHeader, credential.PrincipalHeader, credential.CredentialHeader, credential.ScopesHeader)
	}
	return a
}

// identity appends the headers of the identity.
func identity(headers []Header, d policy.Decision) []Header {
	return append(headers,
		Header{credential.AccountHeader, d.AccountID},
		Header{credential.PrincipalHeader, d.Kind.String()},
		Header{credential.CredentialHeader, d.CredentialID},
		Header{credential.ScopesHeader, d.Scopes.String()},
	)
}

// reservedNames appends the client's reserved headers without the ones that identity sets: Envoy
// removes last, so no name may be in both. To Envoy a name with '_' is another header, which is
// removed.
func reservedNames(names []string, req *Request) []string {
	for _, name := range req.Reserved {
		switch strings.ToLower(name) {
		case credential.AccountHeader, credential.PrincipalHeader, credential.CredentialHeader, credential.ScopesHeader:
		default:
			names = append(names, name)
		}
	}
	return names
}

// Failed returns the answer to a check that panicked before its message was read: unavailable, in
// shadow mode too.
func Failed() Answer {
	return new(Rules).answer(&Request{}, policy.Deny(policy.Unavailable), new(lists))
}

func deny(req *Request, d policy.Denial, l *lists) Answer {
	a := Answer{Code: d.Code, Status: d.Status, Set: l.set[:0]}
	if fromGRPC(req.ContentType) {
		a.Set = append(a.Set,
			Header{"grpc-status", strconv.Itoa(int(d.Code))},
			Header{"grpc-message", grpcMessage(d.Message)})
	} else {
		// Fields in the order of the contract; none has a character that JSON must escape (see
		// credential.ValidScope).
		a.Body = `{"error":"` + d.Error + `","message":"` + d.Message + `","statusCode":` + strconv.Itoa(d.Status) + `}`
		a.Set = append(a.Set, Header{"content-type", "application/json"})
	}
	a.Set = append(a.Set, Header{"cache-control", "no-store"})
	if d.Challenge != "" {
		a.Set = append(a.Set, Header{"www-authenticate", d.Challenge})
	}
	if d.RetryAfter {
		a.Set = append(a.Set, Header{"retry-after", "1"})
	}
	return a
}

// grpcMessage percent-encodes all but printable ASCII, and '%' itself (Status-Message of gRPC over
// HTTP/2).
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

// fromGRPC reports whether the caller is a gRPC caller, by Envoy's rule for local replies: the
// content-type is application/grpc or begins with application/grpc+.
func fromGRPC(contentType []string) bool {
	if len(contentType) != 1 {
		return false
	}
	rest, ok := strings.CutPrefix(contentType[0], "application/grpc")
	return ok && (rest == "" || rest[0] == '+')
}
