package policy

import (
	"slices"
	"strings"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// Principal is who may use an endpoint. The zero Principal is nobody.
type Principal uint8

// The principals.
const (
	Nobody Principal = iota
	Any
	KeyOnly
	SessionOnly
)

// ParsePrincipal reads "any", "key" or "session". Anything else is Nobody and false.
func ParsePrincipal(s string) (Principal, bool) {
	switch s {
	case "any":
		return Any, true
	case "key":
		return KeyOnly, true
	case "session":
		return SessionOnly, true
	}
	return Nobody, false
}

// Requirement is what an endpoint asks of a credential. The zero Requirement is
// met by nobody.
type Requirement struct {
	Principal Principal
	scopes    []string // all of them needed, in the order in which the endpoint names them
}

// NewRequirement makes a requirement of a principal and the space-separated names
// of the scopes that are needed, all of them; "" needs none. A name that cannot be
// a scope (credential.ValidScope) makes it a requirement that nobody meets.
func NewRequirement(p Principal, scopes string) Requirement {
	names := strings.Fields(scopes)
	for _, name := range names {
		if !credential.ValidScope(name) {
			return Requirement{}
		}
	}
	return Requirement{Principal: p, scopes: names}
}

// Scopes returns the needed scopes in the order in which the endpoint names them.
func (r Requirement) Scopes() []string { return slices.Clone(r.scopes) }

// missing returns the first needed scope that held lacks.
func (r Requirement) missing(held credential.Scopes) (string, bool) {
	for _, name := range r.scopes {
		if !held.Has(name) {
			return name, true
		}
	}
	return "", false
}
