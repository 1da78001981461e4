package config

import (
	"net/url"
	"slices"
	"strings"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// named is an address and the field that gives it.
type named struct {
	field   string
	address Address
}

// addresses reports those that two listeners share, and TLS that no listener
// would use; secured are those that TLS is for.
func (r *report) addresses(all, secured []named, tls *ServerTLS) {
	first := map[Address]string{}
	for _, l := range all {
		if l.address == (Address{}) || strings.HasSuffix(l.address.where, ":0") {
			continue // a mistake already, or any free port
		}
		if before, taken := first[l.address]; taken {
			r.wrong(l.field, show(l.address.URL())+", as "+before+" has", "an address of its own")
			continue
		}
		first[l.address] = l.field
	}
	if tls == nil {
		return
	}
	for _, l := range secured {
		if l.address.network != "unix" {
			return
		}
	}
	r.wrong("listen.tls", "a certificate for nothing but Unix sockets", "with a tcp:// address")
}

// scopeNames reports the names in a list that cannot be scopes, and repeats.
func (r *report) scopeNames(field string, names []string) {
	first := map[string]bool{}
	for i, name := range names {
		switch {
		case name == "":
		case !credential.ValidScope(name):
			r.wrong(element(field, i), show(name), scopeForm)
		case first[name]:
			r.wrong(element(field, i), show(name)+" again", "each scope once")
		}
		first[name] = true
	}
}

const scopeForm = "1 to 64 printable ASCII characters without space, quote and backslash"

// pair reports a certificate without its key, or the reverse, and TLS without any field.
func (r *report) pair(field string, t *ClientTLS) {
	given := func(name string) bool { return r.given(join(field, name)) }
	switch cert, key := given("cert_file"), given("key_file"); {
	case cert && !key:
		r.wrong(join(field, "cert_file"), "a certificate alone", "with key_file")
	case key && !cert:
		r.wrong(join(field, "key_file"), "a key alone", "with cert_file")
	case *t == ClientTLS{} && !cert && !given("ca_file"):
		r.wrong(field, "no field", "ca_file, cert_file with key_file, or all three")
	}
}

// absoluteURL parses a URL of one of the schemes that has neither user, query nor
// fragment. Whatever is wrong is reported without the URL itself, if that may hold a password.
func (r *report) absoluteURL(field, value, allowed string, schemes ...string) (*url.URL, bool) {
	u, err := url.Parse(value)
	switch {
	case err != nil || strings.ContainsFunc(value, isControl):
		r.wrong(field, "what is no URL", allowed)
	case u.User != nil:
		r.wrong(field, "a URL with a user or password in it", allowed+", without it")
	case !slices.Contains(schemes, u.Scheme):
		r.wrong(field, show(value), allowed)
	case strings.ContainsAny(value, "?#"):
		r.wrong(field, show(value), allowed+", without ? and #")
	default:
		return u, true
	}
	return nil, false
}

// wrongWebHost says what is wrong with the host and port of an http or https URL, or "".
func wrongWebHost(u *url.URL) string {
	where := u.Host
	if u.Port() == "" {
		where = strings.TrimSuffix(where, ":") + ":1" // any port, to look at the host alone
		if strings.HasSuffix(u.Host, ":") {
			return ", which has an empty port"
		}
	}
	return wrongHostPort(where)
}
