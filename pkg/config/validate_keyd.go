package config

import (
	"fmt"
	"net"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

func (k *Keyd) validate(r *report) {
	l := &k.Listen
	secured := []named{
		{"listen.sidecars", l.Sidecars},
		{"listen.operators", l.Operators},
		{"listen.owners", l.Owners},
	}
	r.addresses(append(slices.Clone(secured), named{"listen.admin", l.Admin}), secured, l.TLS)
	k.validateOwners(r)
	k.validateClientNames(r)
	k.validateStore(r)
	k.validateOperators(r)
	k.validateScopes(r)
}

// maxCatalogue bounds the catalogue. Larger makes the messages that list it unreadable.
const maxCatalogue = 256

func (k *Keyd) validateScopes(r *report) {
	if n := len(k.Scopes); n > maxCatalogue {
		r.wrong("scopes", fmt.Sprintf("%d scopes", n), fmt.Sprintf("at most %d", maxCatalogue))
	}
	for name := range k.Scopes {
		if !credential.ValidScope(name) {
			r.wrong(entry("scopes", name), show(name), scopeForm)
		}
	}
}

// OwnersOpen tells whether whoever reaches the owners' address is taken for Envoy: it is no
// Unix socket, and asks for no client certificate.
func (k *Keyd) OwnersOpen() bool {
	return k.Listen.Owners.Network() == "tcp" && (k.Listen.TLS == nil || k.Listen.TLS.ClientCAFile == "")
}

func (k *Keyd) validateOwners(r *report) {
	if k.OwnersOpen() && !k.Listen.Owners.loopback() {
		r.wrong("listen.owners", show(k.Listen.Owners.URL())+" without listen.tls.client_ca_file",
			"unix:///PATH, tcp:// with that, or tcp:// on this machine alone (127.0.0.1, [::1])")
	}
}

const clientNameForm = "the DNS name or the URI of a client certificate"

// validateClientNames reports names that no certificate can have, and lists that would
// never be compared. An empty list is refused: left out, it would accept every name.
func (k *Keyd) validateClientNames(r *report) {
	const field = "listen.client_names"
	names := k.Listen.ClientNames
	if names == nil {
		return
	}
	if k.Listen.TLS == nil || k.Listen.TLS.ClientCAFile == "" && !r.spoiled("listen.tls.client_ca_file") {
		r.wrong(field, "names without listen.tls.client_ca_file", "with it, because it is what asks for certificates")
	}
	for _, list := range []struct {
		field string
		names []string
	}{
		{field + ".sidecars", names.Sidecars},
		{field + ".operators", names.Operators},
		{field + ".owners", names.Owners},
	} {
		if r.given(list.field) && len(list.names) == 0 && !r.spoiled(list.field) {
			r.wrong(list.field, "an empty list", "one name or more; leave the field out to accept every name")
		}
		for i, name := range list.names {
			if name != "" && !isClientName(name) {
				r.wrong(element(list.field, i), show(name), clientNameForm)
			}
		}
	}
}

// isClientName reports whether a certificate can have the name as a DNS name or a URI.
func isClientName(name string) bool {
	u, err := url.Parse(name)
	return isHost(name) && net.ParseIP(name) == nil || err == nil && u.IsAbs() && (u.Host != "" || u.Scheme == "urn")
}

const (
	storeForm    = "sqlite:///PATH with an absolute path, or postgres://USER@HOST/DATABASE"
	postgresForm = "postgres://USER@HOST/DATABASE"
)

func (k *Keyd) validateStore(r *report) {
	engine, rest, _ := strings.Cut(k.Store, "://")
	switch engine {
	case "sqlite":
		if !path.IsAbs(rest) || path.Clean(rest) != rest || rest == "/" || strings.ContainsAny(rest, "?#%") {
			r.wrong("store", show(k.Store), storeForm)
		}
		if r.given("store_password_file") {
			r.wrong("store_password_file", "a password for SQLite", "with postgres:// only")
		}
	case "postgres", "postgresql":
		if holdsPassword(k.Store) {
			r.wrong("store", "a URL with a password in it", "a URL without it, and store_password_file")
		} else if u, err := url.Parse(k.Store); err != nil || strings.Trim(u.Path, "/") == "" {
			r.wrong("store", "no URL of a database", postgresForm)
		}
	default:
		// Not shown: connection strings of other forms may hold a password.
		r.wrong("store", "neither sqlite:// nor postgres://", storeForm)
	}
}

// holdsPassword tells whether a connection URL holds a password, as far as can be told.
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

const operatorForm = "1 to 64 letters, digits and any of ._@-, nobody else's"

func (k *Keyd) validateOperators(r *report) {
	names := map[string]bool{}
	for i, o := range k.Operators {
		field := element("operators", i) + ".name"
		switch {
		case o.Name == "":
			continue
		case len(o.Name) > 64 || strings.Trim(o.Name, operatorCharacters) != "":
			r.wrong(field, show(o.Name), operatorForm)
		case names[o.Name]:
			r.wrong(field, show(o.Name)+" again", operatorForm)
		}
		names[o.Name] = true
	}
}

const operatorCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._@-"
