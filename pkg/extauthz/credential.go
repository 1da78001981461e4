package extauthz

import (
	"strings"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

// maxCredential is the size of a presented credential in bytes. The contract fixes it.
const maxCredential = 512

// presented is a credential that a look-up may find.
type presented struct {
	kind   credential.Kind
	digest credential.Digest
}

// credentialOf reads the credential of a request. A reason other than policy.OK denies without a
// look-up.
func (r *Rules) credentialOf(req *Request) (presented, policy.Reason) {
	kind, plaintext, valid := r.read(req)
	shape := credential.Malformed
	if valid {
		shape = credential.ShapeOf(plaintext)
	}
	if reason := r.accept(req, kind, valid, shape); reason != policy.OK {
		return presented{}, reason
	}
	return presented{kind: kind, digest: credential.NewSecret(plaintext).Digest()}, policy.OK
}

// read returns the credential in the headers. Kind is 0 if there is none, valid reports whether the
// value has the syntax of its place.
func (r *Rules) read(req *Request) (kind credential.Kind, plaintext string, valid bool) {
	if len(req.Authorization) > 0 {
		token, ok := bearerToken(req.Authorization)
		return credential.Key, token, ok
	}
	value, found, usable := sessionCookie(req.Cookie, r.CookieName)
	if !found {
		return 0, "", false
	}
	return credential.Session, value, usable
}

// accept rejects a credential by its place, syntax and format, if these alone show that no look-up can
// find it.
func (r *Rules) accept(req *Request, kind credential.Kind, valid bool, shape credential.Shape) policy.Reason {
	own := credential.KeyShape
	switch {
	case kind == credential.Key && !valid:
		return policy.MalformedAuthorization
	case kind == credential.Key:
	case kind != credential.Session:
		return policy.NoCredential
	case !r.fromWebApp(req):
		return policy.SessionOrigin
	case !valid:
		return policy.SessionExpired
	default:
		own = credential.SessionShape
	}
	if shape == own || shape == credential.Foreign && !r.RefuseForeign {
		return policy.OK
	}
	return policy.NotFound(kind) // malformed, of the other kind, or a refused format
}

// fromWebApp reports whether a browser sent the request on behalf of a page of the web app. CORS
// keeps other pages from reading an answer, not from sending the request.
func (r *Rules) fromWebApp(req *Request) bool {
	if len(req.Origin) > 0 {
		return len(req.Origin) == 1 && req.Origin[0] == r.Origin
	}
	return len(req.SecFetchSite) == 1 && req.SecFetchSite[0] == "same-origin"
}

// bearerToken reads "Bearer" 1*SP b64token (RFC 6750 section 2.1) with the scheme in any case
// (RFC 9110 section 11.1) from exactly one header.
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
	return token, isKeyValue(token)
}

// isKeyValue reports whether a value may follow the scheme Bearer.
func isKeyValue(s string) bool { return len(s) <= maxCredential && isB64Token(s) }

func isB64Token(s string) bool {
	body := strings.TrimRight(s, "=")
	if body == "" {
		return false
	}
	for i := range len(body) {
		if !inB64Token[body[i]] {
			return false
		}
	}
	return true
}

// inB64Token has the bytes that a b64token may have before its '='. A table has no branches: those that
// depend on the bytes of a random key are predicted wrongly.
var inB64Token = func() (in [256]bool) {
	for _, c := range []byte("-._~+/0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") {
		in[c] = true
	}
	return in
}()

// sessionCookie returns the value of the session cookie. Found reports whether a value is not empty,
// usable whether it is valid and the only value.
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
	return value, found, usable && isSessionValue(value)
}

// isSessionValue reports whether a value may be that of the session cookie.
func isSessionValue(s string) bool { return len(s) <= maxCredential && isCookieOctets(s) }

// isCookieOctets reports whether s consists of cookie-octets (RFC 6265 section 4.1.1).
func isCookieOctets(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '"' || c == ',' || c == ';' || c == '\\' {
			return false
		}
	}
	return true
}

func trimOWS(s string) string { return strings.Trim(s, " \t") }
