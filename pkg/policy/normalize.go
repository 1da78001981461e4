package policy

import (
	"errors"
	"strconv"
	"strings"
)

// Rules of paths and hosts. Requests that break a path rule are always denied, because an upstream
// may interpret their path differently.
var (
	errPathRelative  = errors.New("must begin with /")
	errPathQuery     = errors.New("must not have a query or fragment")
	errPathCharacter = errors.New("must consist of printable ASCII characters without space")
	errPathSeparator = errors.New(`must not contain ;, \ or //`)
	errPathEscape    = errors.New("must not contain %2f, %5c or %00")
	errPathSegment   = errors.New("must not contain a dot segment")
	errPathNested    = errors.New("must not contain an escape within an escape")
	errPrefixSlash   = errors.New("must not end in /")

	errHostDot  = errors.New("must not end in a dot")
	errHostPort = errors.New("must not have a port")
	errHostForm = errors.New("must be a host name, an IPv4 address or an IPv6 address in brackets")
)

// NormalizePath returns the spelling of an entry's path that endpoint tables compare: escapes of
// unreserved characters are decoded (RFC 3986 section 6.2.2.2), and the hexadecimal digits of the
// other escapes are upper case (section 6.2.2.1). The error begins with "must" and names the rule
// that keeps every request from matching p.
func NormalizePath(p string) (string, error) {
	if p == "" || p[0] != '/' {
		return "", errPathRelative
	}
	if strings.IndexByte(p, '%') >= 0 {
		once := normalizeEscapes(p)
		if normalizeEscapes(once) != once {
			return "", errPathNested // %%32e is %2e after one decoding and a dot after two
		}
		p = once
	}
	for i := range len(p) {
		switch c := p[i]; {
		case c <= ' ' || c >= 0x7f:
			return "", errPathCharacter
		case c == ';' || c == '\\', c == '/' && i+1 < len(p) && p[i+1] == '/':
			return "", errPathSeparator
		case c == '#' || c == '?':
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

// NormalizePrefix is NormalizePath for the path of an entry with Prefix. Only the prefix "/" may
// end in "/".
func NormalizePrefix(p string) (string, error) {
	p, err := NormalizePath(p)
	if err == nil && p != "/" && strings.HasSuffix(p, "/") {
		return "", errPrefixSlash
	}
	return p, err
}

// ambiguousEscape reports whether s begins with an escaped slash, backslash or NUL. The digits
// are upper case.
func ambiguousEscape(s string) bool {
	return strings.HasPrefix(s, "%2F") || strings.HasPrefix(s, "%5C") || strings.HasPrefix(s, "%00")
}

// normalizeEscapes decodes the escapes of unreserved characters and converts the others to upper
// case.
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

// unreserved reports whether c is an unreserved character of RFC 3986 section 2.3.
func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '~'
}

// NormalizeHost returns the spelling of an entry's host that endpoint tables compare: lower case.
// "" stays "" and means every host. The error begins with "must" and names the rule that keeps
// every request from matching.
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

// splitHost splits an authority into its host in lower case and the rest: one dot, a port, or
// both. It accepts any characters in a port, because no port is compared. It returns false for
// anything but one host, such as two that a proxy joined with ','.
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
		return "", "", false // text after the brackets
	}
	for i := range len(authority) {
		if c := authority[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`,/\@?#%`, c) >= 0 {
			return "", "", false
		}
	}
	return strings.ToLower(host), rest, !strings.HasSuffix(host, ".")
}
