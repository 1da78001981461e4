package config

import (
	"cmp"
	"slices"
	"strings"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

// endpoints reports entries of the table that could never match, or of which two
// could match the same request with nothing to tell which of them counts.
func (r *report) endpoints(table []Endpoint) {
	entries := make([]policy.Endpoint, len(table))
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
		var err error
		if entries[i], err = e.Entry().Normalize(); err != nil {
			continue // a mistake already
		}
		for j, before := range entries[:i] {
			if method, both := entries[i].Overlap(before); both {
				r.wrong(field, "the path, host and method ("+cmp.Or(method, "all of them")+") of "+element("endpoints", j), "each in one entry only")
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

// wrongPath says why no request's path can match p, or "".
func wrongPath(p string) string {
	if _, err := policy.NormalizePath(p); err != nil {
		return ", which " + err.Error()
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
