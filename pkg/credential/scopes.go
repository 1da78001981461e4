package credential

import (
	"slices"
	"strings"
)

// Scopes is an immutable set of scope names. The zero Scopes is the empty set and means "no
// scope", never "all".
type Scopes struct{ names []string } // sorted, without repeats

// NewScopes makes a set of the names without the empty ones.
func NewScopes(names ...string) Scopes {
	set := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == "" })
	slices.Sort(set)
	return Scopes{names: slices.Clip(slices.Compact(set))}
}

// Has reports whether the set contains name. It scans, because sets have a handful of members.
func (s Scopes) Has(name string) bool {
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

// Without returns the set without name.
func (s Scopes) Without(name string) Scopes {
	return NewScopes(slices.DeleteFunc(slices.Clone(s.names), func(n string) bool { return n == name })...)
}

// Len returns the number of scopes.
func (s Scopes) Len() int { return len(s.names) }

// List returns a sorted copy of the names, never nil.
func (s Scopes) List() []string { return append([]string{}, s.names...) }

// At returns the name at index i of the sorted names, from 0 to Len-1.
func (s Scopes) At(i int) string { return s.names[i] }

// Equal reports whether both sets contain the same names.
func (s Scopes) Equal(other Scopes) bool { return slices.Equal(s.names, other.names) }

// String returns the names joined by single spaces, as OAuth 2.0 writes a scope
// list (RFC 6749 section 3.3).
func (s Scopes) String() string { return strings.Join(s.names, " ") }

// Bounds of scopes. The sidecar and the key API share them, so that every sidecar accepts what
// the key API mints.
const (
	MaxScopes    = 64 // scopes of one credential
	MaxScopeName = 64 // characters of a scope's name
)

// ValidScope reports whether name is an RFC 6749 scope-token of at most MaxScopeName bytes:
// printable ASCII without space, quote and backslash. A valid name needs no escapes in a header,
// in WWW-Authenticate's quoted string and in JSON.
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
