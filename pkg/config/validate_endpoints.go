package config

import (
	"cmp"
	"strings"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/policy"
)

// endpoints reports entries of the table that can never match, and two that match the same
// request with the same precedence.
func (r *report) endpoints(table []Endpoint) {
	entries := make([]policy.Endpoint, len(table))
	for i, e := range table {
		field := element("endpoints", i)
		r.endpoint(field, e)
		var err error
		if entries[i], err = e.Entry().Normalize(); err != nil {
			continue // a mistake already
		}
		for j, other := range entries[:i] {
			if method, both := entries[i].Overlap(other); both {
				r.invalid(field, "must not have the path, host and method ("+cmp.Or(method, "any")+") of "+element("endpoints", j))
				break
			}
		}
	}
}

func (r *report) endpoint(field string, e Endpoint) {
	r.endpointPath(field, e)
	r.endpointHost(field+".host", e.Host)
	r.notEmpty(field+".methods", e.Methods, "must have at least one method; without the field, all methods match")
	isMethod := func(m string) bool { return isToken(m) && strings.ToUpper(m) == m }
	r.unique(field+".methods", e.Methods, isMethod, "must be a method in capital letters, such as GET")
	for name := range strings.FieldsSeq(e.Scope) {
		if !credential.ValidScope(name) {
			r.invalid(field+".scope", "must be scopes separated by spaces, each "+scopeForm)
			break
		}
	}
}

func (r *report) endpointPath(field string, e Endpoint) {
	hasPath, hasPrefix := r.given(field+".path"), r.given(field+".prefix")
	switch {
	case hasPath == hasPrefix:
		if !r.hasMistake(field) {
			r.invalid(field, "must have either path or prefix")
		}
	case e.Path != "":
		if _, err := policy.NormalizePath(e.Path); err != nil {
			r.invalid(field+".path", err.Error())
		}
	case e.Prefix != "":
		if _, err := policy.NormalizePrefix(e.Prefix); err != nil {
			r.invalid(field+".prefix", err.Error())
		}
	}
}

func (r *report) endpointHost(field, host string) {
	if _, err := policy.NormalizeHost(host); err != nil {
		r.invalid(field, err.Error())
		return
	}
	name, isIPv6 := strings.CutPrefix(host, "[")
	name = strings.TrimSuffix(name, "]")
	if host != "" && (!isHost(name) || isIPv6 != strings.Contains(name, ":")) {
		r.invalid(field, "must be one host name or address, with an IPv6 address in brackets")
	}
}
