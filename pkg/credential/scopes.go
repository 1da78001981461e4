package credential

import (
	"slices"
	"strings"
)

// Scopes is a set of scope names, sorted and without repeats. It is immutable;
// the zero value is the empty set and means "no scope", never "all".
type Scopes struct{ names []string }

// NewScopes makes a set of the names. Empty names are left out.
func NewScopes(names ...string) Scopes {
	set := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == "" })
	slices.Sort(set)
	return Scopes{names: slices.Clip(slices.Compact(set))}
}

// Has tells whether the set holds name.
func (s Scopes) Has(name string) bool {
	// Sets have a handful of members: a scan beats a search.
	return slices.Contains(s.names, name)
}

// With returns the union of both sets.
func (s Scopes) With(other Scopes) Scopes {
	switch {
	case len(other.names) == 0:
		return s
	case len(s.names) == 0:
		return other
	}
	return NewScopes(slices.Concat(s.names, other.names)...)
}

// Without returns the set less name.
func (s Scopes) Without(name string) Scopes {
	return NewScopes(slices.DeleteFunc(slices.Clone(s.names), func(n string) bool { return n == name })...)
}

// Len returns how many scopes the set holds.
func (s Scopes) Len() int { return len(s.names) }

// List returns the names in order, as a slice of the caller's own.
func (s Scopes) List() []string { return append([]string{}, s.names...) }

// Equal tells whether both sets hold the same names.
func (s Scopes) Equal(other Scopes) bool { return slices.Equal(s.names, other.names) }

// String returns the names joined by single spaces, as OAuth 2.0 writes a scope
// list (RFC 6749 section 3.3).
func (s Scopes) String() string { return strings.Join(s.names, " ") }

// Bounds of scopes, the same for the sidecar and the key API: what the key API mints, every sidecar
// accepts.
const (
	MaxScopes    = 64 // scopes of one credential
	MaxScopeName = 64 // characters of a scope's name
)

// ValidScope reports whether name is one RFC 6749 scope-token of at most MaxScopeName bytes:
// printable ASCII without space, quote and backslash. Such a name can stand in a
// header and in WWW-Authenticate's quoted string as it is.
func ValidScope(name string) bool {
	if name == "" || len(name) > MaxScopeName {
		return false
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c == '"' || c == '\\' || c >= 0x7f {
			return false
		}
	}
	return true
}
