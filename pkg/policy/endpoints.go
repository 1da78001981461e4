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
	Host        string   // in any case, without port and trailing dot; "": every host
	Path        string   // the exact path, or with Prefix the path and all paths below it
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

// Overlap reports whether both entries have the same path and host and share a method, so that
// one request matches both. Method is the first shared method, "" if both have every method. Both
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

// Endpoints is an immutable table of requirements by method, host and path, for meshes whose Envoy
// sends no context extensions. The zero Endpoints is empty.
//
// The path decides first: exact before prefix, longer before shorter. Host and method then choose
// among the entries of that one path. If none of these matches, the request is denied, so that
// another host or method never falls through to a weaker entry.
type Endpoints struct{ entries map[pathKey][]Endpoint }

type pathKey struct {
	path   string
	prefix bool
}

// NewEndpoints makes a table of the entries, which it normalizes. It returns one error for all
// entries that no request can match (see Endpoint.Normalize) or that overlap (see
// Endpoint.Overlap).
func NewEndpoints(list []Endpoint) (Endpoints, error) {
	entries := map[pathKey][]Endpoint{}
	var invalid []error
	for _, e := range list {
		e, err := e.Normalize()
		if err != nil {
			invalid = append(invalid, err)
			continue
		}
		key := pathKey{e.Path, e.Prefix}
		for _, other := range entries[key] {
			if _, overlap := e.Overlap(other); overlap {
				invalid = append(invalid, fmt.Errorf("path %q and host %q are invalid: must not share a method with another entry", e.Path, e.Host))
			}
		}
		entries[key] = append(entries[key], e)
	}
	if len(invalid) > 0 {
		return Endpoints{}, errors.Join(invalid...)
	}
	for _, same := range entries {
		// Entries with a host come before those without.
		slices.SortStableFunc(same, func(a, b Endpoint) int { return strings.Compare(b.Host, a.Host) })
	}
	return Endpoints{entries}, nil
}

// Match returns the requirement of a request, the zero Requirement if the table has none. Target
// is the request's :path with its query; host is its authority.
func (t Endpoints) Match(method, host, target string) Requirement {
	if len(t.entries) == 0 {
		return Requirement{}
	}
	path, _, _ := strings.Cut(target, "?")
	path, err := NormalizePath(path)
	host, _, ok := splitHost(host)
	if err != nil || !ok {
		return Requirement{}
	}
	if entries, ok := t.entries[pathKey{path, false}]; ok {
		return choose(entries, method, host)
	}
	for at := path; at != ""; at = at[:strings.LastIndexByte(at, '/')] {
		if entries, ok := t.entries[pathKey{at, true}]; ok {
			return choose(entries, method, host)
		}
	}
	return choose(t.entries[pathKey{"/", true}], method, host)
}

// choose returns the requirement of the first entry that matches host and method. A method that
// differs from an entry's only in case matches no entry: an upstream may ignore the case, and a
// later entry may require less.
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
