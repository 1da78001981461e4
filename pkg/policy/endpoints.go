package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Endpoint is one entry of an Endpoints table.
type Endpoint struct {
	Methods     []string // empty: every method
	Host        string   // exact, lower case, without port and trailing dot; "": every host
	Path        string   // exact path, or with Prefix the path and all below it
	Prefix      bool
	Requirement Requirement
}

// Endpoints tells the requirement of an endpoint by method, host and path: for
// meshes whose Envoy cannot tell it by the route that it matched.
//
// The path decides first: exact before prefix, longer before shorter. Only then
// do host and method choose among the entries of that one path, and if none takes
// the request it is met by nobody; so another host or method never falls through
// to a weaker entry. A match costs one map look-up for each segment of the path.
//
// The zero Endpoints has no entry. An Endpoints is immutable.
type Endpoints struct {
	exact  map[string][]Endpoint
	prefix map[string][]Endpoint
}

// NewEndpoints makes a table. It refuses entries that could answer for each other;
// whether an entry is well formed is the caller's affair.
func NewEndpoints(list []Endpoint) (Endpoints, error) {
	table := Endpoints{exact: map[string][]Endpoint{}, prefix: map[string][]Endpoint{}}
	var clashes []error
	for _, e := range list {
		kind := table.exact
		if e.Prefix {
			kind = table.prefix
		}
		for _, other := range kind[e.Path] {
			if other.Host == e.Host && shareMethod(other.Methods, e.Methods) {
				clashes = append(clashes, fmt.Errorf("two entries for path %q and host %q have a method in common", e.Path, e.Host))
			}
		}
		kind[e.Path] = append(kind[e.Path], e)
	}
	for _, kind := range []map[string][]Endpoint{table.exact, table.prefix} {
		for _, entries := range kind {
			// Entries with a host stand first: they are asked before those without.
			slices.SortStableFunc(entries, func(a, b Endpoint) int { return strings.Compare(b.Host, a.Host) })
		}
	}
	return table, errors.Join(clashes...)
}

func shareMethod(a, b []string) bool {
	if len(a) == 0 || len(b) == 0 {
		return true
	}
	return slices.ContainsFunc(a, func(m string) bool { return slices.Contains(b, m) })
}

// Match returns the requirement of a request, the zero Requirement where the table
// has none. Target is the request's :path with its query; host is its authority.
func (t Endpoints) Match(method, host, target string) Requirement {
	if len(t.exact) == 0 && len(t.prefix) == 0 {
		return Requirement{}
	}
	path, ok := cleanPath(target)
	if !ok {
		return Requirement{}
	}
	host, ok = cleanHost(host)
	if !ok {
		return Requirement{}
	}
	if entries, ok := t.exact[path]; ok {
		return choose(entries, method, host)
	}
	for at := path; ; at = at[:strings.LastIndexByte(at, '/')] {
		if entries, ok := t.prefix[at]; ok && at != "" {
			return choose(entries, method, host)
		}
		if at == "" {
			return choose(t.prefix["/"], method, host)
		}
	}
}

func choose(entries []Endpoint, method, host string) Requirement {
	for _, e := range entries {
		if (e.Host == "" || e.Host == host) && (len(e.Methods) == 0 || slices.Contains(e.Methods, method)) {
			return e.Requirement
		}
	}
	return Requirement{}
}

// cleanPath cuts the query off and refuses every path that an upstream might read
// otherwise than it is written: in a mesh nobody may have normalised it. Escapes of
// unreserved characters are resolved, for they mean those characters (RFC 3986
// section 6.2.2.2).
func cleanPath(target string) (string, bool) {
	path, _, _ := strings.Cut(target, "?")
	if path == "" || path[0] != '/' {
		return "", false
	}
	if strings.IndexByte(path, '%') >= 0 {
		path = unescapeUnreserved(path)
	}
	for i := range len(path) {
		switch c := path[i]; {
		case c <= ' ' || c >= 0x7f || c == ';' || c == '\\' || c == '#':
			return "", false
		case c == '/' && i+1 < len(path) && path[i+1] == '/':
			return "", false
		case c == '%' && ambiguousEscape(path[i:]):
			return "", false
		}
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." {
			return "", false
		}
	}
	return path, true
}

// ambiguousEscape tells whether s begins with an escaped slash, backslash or NUL.
func ambiguousEscape(s string) bool {
	if len(s) < 3 {
		return false
	}
	switch strings.ToLower(s[1:3]) {
	case "2f", "5c", "00":
		return true
	}
	return false
}

func unescapeUnreserved(path string) string {
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] == '%' && i+2 < len(path) {
			if c, err := strconv.ParseUint(path[i+1:i+3], 16, 8); err == nil && unreserved(byte(c)) {
				b.WriteByte(byte(c))
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

// cleanHost drops port and trailing dot and folds the case. Two hosts that a proxy
// joined, or anything else that is no host, is refused.
func cleanHost(authority string) (string, bool) {
	host := authority
	if end := strings.LastIndexByte(host, ']'); strings.HasPrefix(host, "[") && end > 0 {
		host = host[:end+1]
	} else if colon := strings.IndexByte(host, ':'); colon >= 0 {
		host = host[:colon]
	}
	if strings.ContainsAny(host, ", \t/@\\") {
		return "", false
	}
	return strings.ToLower(strings.TrimSuffix(host, ".")), true
}
