package policy

import (
	"errors"
	"strconv"
	"strings"
)

// Reasons why a path is never matched. The text of each completes the sentence "the path …".
var (
	errPathRelative  = errors.New("does not begin with /")
	errPathQuery     = errors.New("has a query or fragment")
	errPathCharacter = errors.New("has a space, control or non-ASCII character")
	errPathSeparator = errors.New(`has ;, \ or // and so is always denied`)
	errPathEscape    = errors.New("has %2f, %5c or %00 and so is always denied")
	errPathSegment   = errors.New("has a dot segment and so is always denied")
	errPathNested    = errors.New("has an escape within an escape and so is always denied")
)

// Reasons why a host is never matched. The text of each completes the sentence "the host …".
var (
	errHostDot  = errors.New("ends in a dot")
	errHostPort = errors.New("has a port")
	errHostForm = errors.New("is not a host name or address")
)

// NormalizePath returns the one spelling of a path that endpoint tables compare: escapes of
// unreserved characters are decoded (RFC 3986 section 6.2.2.2), and the hexadecimal digits of
// the other escapes are upper case (section 6.2.2.1). The error says why no request's path can
// match p, because Endpoints.Match denies every path that an upstream might read otherwise than
// it is written; its text completes the sentence "the path …".
func NormalizePath(p string) (string, error) {
	if strings.ContainsAny(p, "?#") {
		return "", errPathQuery
	}
	return normalizePath(p)
}

// normalizePath is NormalizePath for the path of a request, without its query.
func normalizePath(p string) (string, error) {
	if p == "" || p[0] != '/' {
		return "", errPathRelative
	}
	if strings.IndexByte(p, '%') >= 0 {
		once := normalizeEscapes(p)
		if normalizeEscapes(once) != once {
			return "", errPathNested // %%32e is %2e when it is decoded once, and a dot when twice
		}
		p = once
	}
	for i := range len(p) {
		switch c := p[i]; {
		case c <= ' ' || c >= 0x7f:
			return "", errPathCharacter
		case c == ';' || c == '\\', c == '/' && i+1 < len(p) && p[i+1] == '/':
			return "", errPathSeparator
		case c == '#':
			return "", errPathQuery
		case c == '%' && ambiguousEscape(p[i:]):
			return "", errPathEscape
		}
	}
	for segment := range strings.SplitSeq(p, "/") {
		if segment == "." || segment == ".." {
			return "", errPathSegment
		}
	}
	return p, nil
}

// ambiguousEscape reports whether s begins with an escaped slash, backslash or NUL. The digits
// are upper case.
func ambiguousEscape(s string) bool {
	return strings.HasPrefix(s, "%2F") || strings.HasPrefix(s, "%5C") || strings.HasPrefix(s, "%00")
}

// normalizeEscapes decodes the escapes of unreserved characters and writes the others in upper
// case. What is not an escape stays as it is.
func normalizeEscapes(path string) string {
	var b strings.Builder
	b.Grow(len(path))
	for i := 0; i < len(path); i++ {
		if path[i] == '%' && i+2 < len(path) {
			if c, err := strconv.ParseUint(path[i+1:i+3], 16, 8); err == nil {
				if unreserved(byte(c)) {
					b.WriteByte(byte(c))
				} else {
					b.WriteString(strings.ToUpper(path[i : i+3]))
				}
				i += 2
				continue
			}
		}
		b.WriteByte(path[i])
	}
	return b.String()
}

// unreserved characters are those of RFC 3986 section 2.3.
func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '~'
}

// NormalizeHost returns the one spelling of an entry's host that endpoint tables compare: lower
// case. "" stays "" and means every host. The error says why no request's host can match; its
// text completes the sentence "the host …".
func NormalizeHost(host string) (string, error) {
	if host == "" {
		return "", nil
	}
	name, rest, ok := splitHost(host)
	switch {
	case ok && name != "" && (rest == "." || strings.HasPrefix(rest, ".:")):
		return "", errHostDot
	case ok && name != "" && rest != "":
		return "", errHostPort
	case !ok || name == "":
		return "", errHostForm
	}
	return name, nil
}

// normalizeHost returns the host of a request's authority in the spelling of NormalizeHost, and
// false if it is not the authority of one host, such as two that a proxy joined with ','.
func normalizeHost(authority string) (string, bool) {
	name, _, ok := splitHost(authority)
	return name, ok
}

// splitHost splits an authority into its host in lower case and what may follow it: one dot, a
// port, or both. A port of other characters than digits is accepted, because no port is compared.
func splitHost(authority string) (host, rest string, ok bool) {
	end := strings.IndexByte(authority, ':')
	if strings.HasPrefix(authority, "[") { // an IPv6 address (RFC 3986 section 3.2.2)
		end = strings.IndexByte(authority, ']')
		if end < 0 {
			return "", "", false
		}
		end++
	}
	if end < 0 {
		end = len(authority)
	}
	host = authority[:end]
	if trimmed, dotted := strings.CutSuffix(host, "."); dotted {
		host = trimmed
	}
	rest = authority[len(host):]
	if port := strings.TrimPrefix(rest, "."); port != "" && port[0] != ':' {
		return "", "", false // what follows the brackets is neither
	}
	for i := range len(authority) {
		if c := authority[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`,/\@?#%`, c) >= 0 {
			return "", "", false
		}
	}
	return strings.ToLower(host), rest, !strings.HasSuffix(host, ".")
}
