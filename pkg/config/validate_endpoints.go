package config

import (
	"slices"
	"strings"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// endpoints reports entries of the table that could never match, or of which two
// could match the same request with nothing to tell which of them counts.
func (r *report) endpoints(table []Endpoint) {
	for i, e := range table {
		field := element("endpoints", i)
		r.endpointPath(field, e)
		r.endpointHost(field+".host", e.Host)
		r.endpointMethods(field+".methods", e.Methods)
		for name := range strings.SplitSeq(e.Scope, " ") {
			if name != "" && !credential.ValidScope(name) {
				r.wrong(field+".scope", show(name), "scopes separated by spaces, each "+scopeForm)
			}
		}
		for j, before := range table[:i] {
			if method, both := overlap(before, e); both {
				r.wrong(field, "the path, host and method ("+method+") of "+element("endpoints", j), "each in one entry only")
				break
			}
		}
	}
}

const pathForm = "a path that begins with /, without a query"

func (r *report) endpointPath(field string, e Endpoint) {
	hasPath, hasPrefix := r.given(field+".path"), r.given(field+".prefix")
	switch {
	case hasPath && hasPrefix:
		r.wrong(field, "both path and prefix", "one of them")
	case hasPath && e.Path != "":
		if why := wrongPath(e.Path); why != "" {
			r.wrong(field+".path", show(e.Path)+why, pathForm)
		}
	case hasPrefix && e.Prefix != "":
		if why := wrongPath(e.Prefix); why != "" {
			r.wrong(field+".prefix", show(e.Prefix)+why, pathForm)
		} else if e.Prefix != "/" && strings.HasSuffix(e.Prefix, "/") {
			r.wrong(field+".prefix", show(e.Prefix)+", which ends in /", show(strings.TrimRight(e.Prefix, "/")))
		}
	case !hasPath && !hasPrefix && !r.spoiled(field):
		r.wrong(field, "neither path nor prefix", "one of them")
	}
}

// wrongPath says why no request's path can match p, or "": the sidecar denies such
// paths before it looks into the table.
func wrongPath(p string) string {
	lower := strings.ToLower(p)
	switch {
	case !strings.HasPrefix(p, "/"):
		return ", which does not begin with /"
	case strings.ContainsAny(p, "?#"):
		return ", which has a query or fragment"
	case strings.ContainsFunc(p, func(c rune) bool { return c <= ' ' || c >= 0x7f }):
		return ", which has a space, control or non-ASCII character"
	case strings.ContainsAny(p, `;\`), strings.Contains(p, "//"):
		return `, which has ;, \ or // and so is always denied`
	case strings.Contains(lower, "%2f"), strings.Contains(lower, "%5c"), strings.Contains(lower, "%00"):
		return ", which has %2f, %5c or %00 and so is always denied"
	}
	for segment := range strings.SplitSeq(strings.ReplaceAll(lower, "%2e", "."), "/") {
		if segment == "." || segment == ".." {
			return ", which has a dot segment and so is always denied"
		}
	}
	return ""
}

func (r *report) endpointHost(field, host string) {
	const allowed = "an exact host name or address"
	name := host
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		name = strings.Trim(host, "[]") // an IPv6 address as it stands in Host
	}
	switch {
	case host == "":
	case strings.HasSuffix(host, "."):
		r.wrong(field, show(host)+", which ends in a dot", allowed)
	case strings.Contains(host, ":") && name == host:
		r.wrong(field, show(host)+", which has a port", allowed+" (IPv6 in brackets)")
	case !isHost(name) || (name != host && !strings.Contains(name, ":")):
		r.wrong(field, show(host), allowed)
	}
}

func (r *report) endpointMethods(field string, methods []string) {
	if r.given(field) && len(methods) == 0 && !r.spoiled(field) {
		r.wrong(field, "no method", "a list with one or more; leave the field out for all methods")
	}
	for i, m := range methods {
		switch {
		case m == "":
		case !isToken(m) || strings.ToUpper(m) != m:
			r.wrong(element(field, i), show(m), "a method in capital letters, such as GET")
		case slices.Contains(methods[:i], m):
			r.wrong(element(field, i), show(m)+" again", "each method once")
		}
	}
}

// overlap tells whether two entries are for the same path and host and have a
// method in common, and which.
func overlap(a, b Endpoint) (string, bool) {
	if a.Path != b.Path || a.Prefix != b.Prefix || !strings.EqualFold(a.Host, b.Host) || a.Path+a.Prefix == "" {
		return "", false
	}
	switch {
	case len(a.Methods) == 0 && len(b.Methods) == 0:
		return "all of them", true
	case len(a.Methods) == 0:
		return b.Methods[0], true
	case len(b.Methods) == 0:
		return a.Methods[0], true
	}
	for _, m := range b.Methods {
		if slices.Contains(a.Methods, m) {
			return m, true
		}
	}
	return "", false
}
