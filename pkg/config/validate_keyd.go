package config

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

func (k *Keyd) validate(r *report) {
	l := &k.Listen
	secured := []listener{
		{"listen.sidecars", l.Sidecars},
		{"listen.operators", l.Operators},
		{"listen.owners", l.Owners},
	}
	r.addresses(append(slices.Clone(secured), listener{"listen.admin", l.Admin}), secured, l.TLS)
	if k.OwnersOpen() && !l.Owners.isLoopback() {
		r.invalid("listen.owners", "must be unix:///PATH, a loopback address, or be used with listen.tls.client_ca_file")
	}
	k.validateClientNames(r)
	k.validateStore(r)
	k.validateOperators(r)
	k.validateScopes(r)
}

// maxCatalogue is the number of scopes in the catalogue. Larger makes the messages that list it
// unreadable; smaller rejects catalogues in use.
const maxCatalogue = 256

func (k *Keyd) validateScopes(r *report) {
	if len(k.Scopes) > maxCatalogue {
		r.invalid("scopes", fmt.Sprintf("must have at most %d scopes", maxCatalogue))
	}
	for name := range k.Scopes {
		if !credential.ValidScope(name) {
			r.invalid(entry("scopes", name), "must be a scope: "+scopeForm)
		}
	}
}

// OwnersOpen reports whether every client that reaches the owners' address is trusted as Envoy:
// it is not a Unix socket, and no client certificate is required.
func (k *Keyd) OwnersOpen() bool {
	return k.Listen.Owners.Network() == "tcp" && (k.Listen.TLS == nil || k.Listen.TLS.ClientCAFile == "")
}

// validateClientNames reports names that no certificate can have, and lists that are never used.
// An empty list is refused because an absent one accepts every name.
func (k *Keyd) validateClientNames(r *report) {
	const field = "listen.client_names"
	names := k.Listen.ClientNames
	if names == nil {
		return
	}
	if k.Listen.TLS == nil || k.Listen.TLS.ClientCAFile == "" && !r.hasMistake("listen.tls.client_ca_file") {
		r.invalid(field, "must be used with listen.tls.client_ca_file")
	}
	for name, list := range map[string][]string{
		field + ".sidecars": names.Sidecars, field + ".operators": names.Operators, field + ".owners": names.Owners,
	} {
		r.notEmpty(name, list, "must have at least one name; without the field, every name is accepted")
		r.unique(name, list, isClientName, "must be a DNS name or URI of client certificates")
	}
}

// isClientName reports whether a certificate can have the name as a DNS name or a URI.
func isClientName(name string) bool {
	u, err := url.Parse(name)
	return isHost(name) && net.ParseIP(name) == nil || err == nil && u.IsAbs() && (u.Host != "" || u.Scheme == "urn")
}

const (
	sqliteForm   = "sqlite:///PATH"
	postgresForm = "postgres://USER@HOST/DATABASE"
)

func (k *Keyd) validateStore(r *report) {
	engine, rest, _ := strings.Cut(k.Store, "://")
	switch engine {
	case "sqlite":
		if !isCleanPath(rest) || strings.ContainsAny(rest, "?#%") {
			r.invalid("store", "must be "+sqliteForm+" with an absolute path")
		}
		if r.given("store_password_file") {
			r.invalid("store_password_file", "must be used with a postgres:// store")
		}
	case "postgres", "postgresql":
		if holdsPassword(k.Store) {
			r.invalid("store", "must not hold a password: use store_password_file")
		} else if u, err := url.Parse(k.Store); err != nil || strings.Trim(u.Path, "/") == "" {
			r.invalid("store", "must be "+postgresForm)
		}
	default:
		r.invalid("store", "must be "+sqliteForm+" or "+postgresForm)
	}
}

// holdsPassword reports whether a connection URL holds a password.
func holdsPassword(store string) bool {
	u, err := url.Parse(store)
	if err != nil {
		return strings.Contains(store, "@")
	}
	_, inUser := u.User.Password()
	for name := range u.Query() {
		inUser = inUser || strings.Contains(strings.ToLower(name), "password")
	}
	return inUser
}

const operatorCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._@-"

func (k *Keyd) validateOperators(r *report) {
	first := map[string]bool{}
	for i, o := range k.Operators {
		field := element("operators", i) + ".name"
		switch {
		case o.Name == "": // a mistake already
		case len(o.Name) > 64 || strings.Trim(o.Name, operatorCharacters) != "":
			r.invalid(field, "must be 1 to 64 letters, digits and any of ._@-")
		case first[o.Name]:
			r.invalid(field, "must not be repeated")
		}
		first[o.Name] = true
	}
}
