package extauthz

import (
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

// Request is what a front read of a proxy's question. The zero Request carries no
// credential and is denied. A header's slice has one element for each entry that
// the proxy sent, empty ones too; a proxy may have joined repeated ones with ','.
type Request struct {
	// Arrived is when the process received the question. If it is zero, the check sets it to
	// the moment when it begins.
	Arrived time.Time

	Method, Host string
	Path         string // with the query, as the proxy sent it
	Authorization,
	Cookie,
	Origin,
	SecFetchSite,
	ContentType []string
	// Reserved holds the names of the client's headers for which credential.IsReserved is true,
	// as the client sent them.
	Reserved []string

	// Route is what the proxy's matched route says of the requirement.
	Route RouteRequirement
}

// RouteRequirement is what a route's context extensions say. Set tells whether
// they say anything, HasPrincipal whether they name a principal; without one it is any. An empty
// Scope is a statement, too, and an empty Principal is one that does not exist.
type RouteRequirement struct {
	Set, HasPrincipal bool
	Scope, Principal  string
}

// maxCredential bounds a presented credential in bytes.
const maxCredential = 512

// presented is a credential that is worth judging.
type presented struct {
	kind   credential.Kind
	digest credential.Digest
}

// credentialOf reads the credential of a request. A reason other than policy.OK
// decides the check at once.
func (r *Rules) credentialOf(req *Request) (presented, policy.Reason) {
	if len(req.Authorization) > 0 {
		token, ok := bearerToken(req.Authorization)
		if !ok {
			return presented{}, policy.MalformedAuthorization
		}
		return r.accept(credential.Key, token)
	}
	value, found, usable := sessionCookie(req.Cookie, r.CookieName)
	switch {
	case !found:
		return presented{}, policy.NoCredential
	case !r.fromWebApp(req):
		return presented{}, policy.SessionOrigin
	case !usable:
		return presented{}, policy.SessionExpired
	}
	return r.accept(credential.Session, value)
}

// accept refuses by its form alone what no look-up could find.
func (r *Rules) accept(kind credential.Kind, plaintext string) (presented, policy.Reason) {
	own := credential.KeyShape
	if kind == credential.Session {
		own = credential.SessionShape
	}
	switch credential.ShapeOf(plaintext) {
	case own:
	case credential.Foreign:
		if r.RefuseForeign {
			return presented{}, policy.NotFound(kind)
		}
	default: // broken, or of the other kind
		return presented{}, policy.NotFound(kind)
	}
	return presented{kind: kind, digest: credential.NewSecret(plaintext).Digest()}, policy.OK
}

// fromWebApp tells whether a browser sent the request for a page of the web app:
// CORS stops a foreign page from reading an answer, not from asking.
func (r *Rules) fromWebApp(req *Request) bool {
	if len(req.Origin) > 0 {
		return len(req.Origin) == 1 && req.Origin[0] == r.Origin
	}
	return len(req.SecFetchSite) == 1 && req.SecFetchSite[0] == "same-origin"
}

// bearerToken reads "Bearer" 1*SP b64token (RFC 6750 section 2.1), the scheme in
// any case (RFC 9110 section 11.1), from exactly one header.
func bearerToken(values []string) (string, bool) {
	const scheme = "bearer"
	if len(values) != 1 || len(values[0]) <= len(scheme) {
		return "", false
	}
	name, rest := values[0][:len(scheme)], values[0][len(scheme):]
	if !strings.EqualFold(name, scheme) || rest[0] != ' ' {
		return "", false
	}
	token := strings.TrimLeft(rest, " ")
	return token, len(token) <= maxCredential && isB64Token(token)
}

func isB64Token(s string) bool {
	body := strings.TrimRight(s, "=")
	if body == "" {
		return false
	}
	for i := range len(body) {
		switch c := body[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case strings.IndexByte("-._~+/", c) >= 0:
		default:
			return false
		}
	}
	return true
}

// sessionCookie finds the session cookie's value. found: there is one that is not
// empty. usable: its value is a possible one and no other contradicts it.
func sessionCookie(headers []string, name string) (value string, found, usable bool) {
	usable = true
	for _, header := range headers {
		for pair := range strings.SplitSeq(header, ";") {
			n, v, _ := strings.Cut(trimOWS(pair), "=")
			if n != name || v == "" {
				continue
			}
			if found && v != value {
				usable = false
			}
			value, found = v, true
		}
	}
	return value, found, usable && len(value) <= maxCredential && isCookieOctets(value)
}

// isCookieOctets holds a value against RFC 6265 section 4.1.1, cookie-octet.
func isCookieOctets(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '"' || c == ',' || c == ';' || c == '\\' {
			return false
		}
	}
	return true
}

func trimOWS(s string) string { return strings.Trim(s, " \t") }

// otherCookies returns the Cookie header without the session cookie, and whether
// anything was taken out. A proxy may have joined two lines with ',': a pair that
// hides the session cookie behind one goes too. So do pairs that are not UTF-8, which the
// strings of an answer must be. All other pairs stay as they are.
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

// holdsCookie reports whether a parser that is less strict than sessionCookie could find the
// session cookie in a pair: behind a comma, or with a space around its name.
func holdsCookie(pair, name string) bool {
	for part := range strings.SplitSeq(pair, ",") {
		if n, _, _ := strings.Cut(part, "="); trimOWS(n) == name {
			return true
		}
	}
	return false
}

// fromGRPC tells whether the caller speaks gRPC, by the same rule as Envoy does when
// it writes a local reply (HTTP content-type exactly application/grpc, or with '+').
func fromGRPC(contentType []string) bool {
	if len(contentType) != 1 {
		return false
	}
	rest, ok := strings.CutPrefix(contentType[0], "application/grpc")
	return ok && (rest == "" || rest[0] == '+')
}
