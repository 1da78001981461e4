package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Endpoint is one entry of an Endpoints table.
type Endpoint struct {
	Methods     []string // empty: every method
	Host        string   // exact but for the case, without port and trailing dot; "": every host
	Path        string   // exact path, or with Prefix the path and all below it
	Prefix      bool
	Requirement Requirement
}

// Normalize returns the entry with the spelling of path and host that is compared. The error names
// the first rule that keeps every request from matching.
func (e Endpoint) Normalize() (Endpoint, error) {
	normalize := NormalizePath
	if e.Prefix {
		normalize = NormalizePrefix
	}
	path, err := normalize(e.Path)
	if err != nil {
		return Endpoint{}, fmt.Errorf("path %q is invalid: %w", e.Path, err)
	}
	host, err := NormalizeHost(e.Host)
	if err != nil {
		return Endpoint{}, fmt.Errorf("host %q is invalid: %w", e.Host, err)
	}
	e.Path, e.Host = path, host
	return e, nil
}

// Overlap reports whether both entries can be the answer to one request with nothing to tell
// which of them counts: path and host are the same and a method is in common. Method is the
// first such of e, of other if e has every method, and "" if both have every method. Both
// entries must be normalized.
func (e Endpoint) Overlap(other Endpoint) (method string, overlap bool) {
	if e.Path != other.Path || e.Prefix != other.Prefix || e.Host != other.Host {
		return "", false
	}
	switch {
	case len(e.Methods) == 0 && len(other.Methods) == 0:
		return "", true
	case len(e.Methods) == 0:
		return other.Methods[0], true
	case len(other.Methods) == 0:
		return e.Methods[0], true
	}
	for _, m := range e.Methods {
		if slices.Contains(other.Methods, m) {
			return m, true
		}
	}
	return "", false
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

// NewEndpoints makes a table. It normalizes the entries, and refuses those that no request can
// match (see Endpoint.Normalize) and those that overlap (see Endpoint.Overlap); the error names
// all of them.
func NewEndpoints(list []Endpoint) (Endpoints, error) {
	table := Endpoints{exact: map[string][]Endpoint{}, prefix: map[string][]Endpoint{}}
	var wrong []error
	for _, e := range list {
		e, err := e.Normalize()
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		kind := table.exact
		if e.Prefix {
			kind = table.prefix
		}
		for _, other := range kind[e.Path] {
			if _, overlap := e.Overlap(other); overlap {
				wrong = append(wrong, fmt.Errorf("two entries for path %q and host %q have a method in common", e.Path, e.Host))
			}
		}
		kind[e.Path] = append(kind[e.Path], e)
	}
	if len(wrong) > 0 {
		return Endpoints{}, errors.Join(wrong...)
	}
	for _, kind := range []map[string][]Endpoint{table.exact, table.prefix} {
		for _, entries := range kind {
			// Entries with a host stand first: they are asked before those without.
			slices.SortStableFunc(entries, func(a, b Endpoint) int { return strings.Compare(b.Host, a.Host) })
		}
	}
	return table, nil
}

// Match returns the requirement of a request, the zero Requirement where the table
// has none. Target is the request's :path with its query; host is its authority.
func (t Endpoints) Match(method, host, target string) Requirement {
	if len(t.exact) == 0 && len(t.prefix) == 0 {
		return Requirement{}
	}
	path, _, _ := strings.Cut(target, "?")
	path, err := normalizePath(path)
	if err != nil {
		return Requirement{}
	}
	host, ok := normalizeHost(host)
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

// choose takes the first entry that accepts host and method. A method that differs from one of
// an entry by its case alone is accepted by no entry: an upstream may read it as that method,
// and an entry that stands later may require less.
func choose(entries []Endpoint, method, host string) Requirement {
	for _, e := range entries {
		if e.Host != "" && e.Host != host {
			continue
		}
		if len(e.Methods) == 0 || slices.Contains(e.Methods, method) {
			return e.Requirement
		}
		if slices.ContainsFunc(e.Methods, func(m string) bool { return strings.EqualFold(m, method) }) {
			return Requirement{}
		}
	}
	return Requirement{}
}
