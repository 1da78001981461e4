package config

import (
	"errors"
	"io/fs"
	"net/url"
	"slices"
	"strings"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/secretfile"
)

// listener is an address and the field that gives it.
type listener struct {
	field   string
	address Address
}

// addresses reports listeners with the same address, and TLS without a TCP listener; secured are
// the listeners that tls is for.
func (r *report) addresses(all, secured []listener, tls *ServerTLS) {
	first := map[Address]string{}
	for _, l := range all {
		if l.address == (Address{}) || strings.HasSuffix(l.address.where, ":0") {
			continue // a mistake already, or any free port
		}
		if other, taken := first[l.address]; taken {
			r.invalid(l.field, "must be another address than "+other)
			continue
		}
		first[l.address] = l.field
	}
	if tls != nil {
		r.checkKeyPair("listen.tls", tls.CertFile, tls.KeyFile)
	}
	isUnix := func(l listener) bool { return l.address.network == "unix" }
	if tls != nil && !slices.ContainsFunc(secured, func(l listener) bool { return !isUnix(l) }) {
		r.invalid("listen.tls", "must be used with a tcp:// address")
	}
}

// unique reports the strings in a list that check refuses, and repeats. Empty ones are a mistake
// already.
func (r *report) unique(field string, list []string, check func(string) bool, must string) {
	for i, s := range list {
		switch {
		case s == "":
		case !check(s):
			r.invalid(element(field, i), must)
		case slices.Contains(list[:i], s):
			r.invalid(element(field, i), "must not be repeated")
		}
	}
}

const scopeForm = "1 to 64 printable ASCII characters without space, quote and backslash"

func (r *report) scopes(field string, names []string) {
	r.unique(field, names, credential.ValidScope, "must be a scope: "+scopeForm)
}

// notEmpty reports a list that the file gives without an item.
func (r *report) notEmpty(field string, list []string, must string) {
	if r.given(field) && len(list) == 0 && !r.hasMistake(field) {
		r.invalid(field, must)
	}
}

// clientTLS reports a certificate without its key, or the reverse, and TLS without any field.
func (r *report) clientTLS(field string, t *ClientTLS) {
	r.checkKeyPair(field, t.CertFile, t.KeyFile)
	given := func(name string) bool { return r.given(join(field, name)) }
	switch cert, key := given("cert_file"), given("key_file"); {
	case cert && !key:
		r.invalid(join(field, "cert_file"), "must be used with key_file")
	case key && !cert:
		r.invalid(join(field, "key_file"), "must be used with cert_file")
	case *t == ClientTLS{} && !cert && !given("ca_file"):
		r.invalid(field, "must have ca_file, or cert_file with key_file")
	}
}

// url parses a URL of one of the schemes, without user, query and fragment.
func (r *report) url(field, value, form string, schemes ...string) (*url.URL, bool) {
	u, err := url.Parse(value)
	switch {
	case err != nil, strings.ContainsFunc(value, isControl), !slices.Contains(schemes, u.Scheme):
		r.invalid(field, "must be "+form)
	case u.User != nil, strings.ContainsAny(value, "?#"):
		r.invalid(field, "must be "+form+", without user, password, query and fragment")
	default:
		return u, true
	}
	return nil, false
}

// checkMode says which named files are checked.
type checkMode int

const (
	allFiles      checkMode = iota // a missing file is a mistake
	existingFiles                  // a missing file is skipped
	noFiles
)

// checkFile reports a named file that the program could not use, so that it never starts with a part
// of what it needs. Kind is that of the tag file.
func (r *report) checkFile(field, name, kind string) {
	if r.mode == noFiles {
		return
	}
	switch kind {
	case "secret":
		r.checkSecret(field, name, secretfile.CheckSecret)
	case "token":
		r.checkSecret(field, name, secretfile.CheckToken)
	case "ca":
		r.unusable(field, secretfile.CheckCAs(name))
	default:
		r.unusable(field, secretfile.CheckPEM(name))
	}
}

func (r *report) unusable(field string, err error) {
	if err == nil || r.mode == existingFiles && errors.Is(err, fs.ErrNotExist) {
		return
	}
	r.add(r.mark(field), field, field+": "+err.Error())
}

// checkSecret checks the file of a secret. A token identifies one operator or the sidecars, so
// no two fields may have the same one.
func (r *report) checkSecret(field, name string, check func(string) (credential.Secret, error)) {
	secret, err := check(name)
	if err != nil {
		r.unusable(field, err)
		return
	}
	holder, taken := r.holders[secret.Digest()]
	switch {
	case !taken:
		r.holders[secret.Digest()] = field
	case !sameList(holder, field):
		r.invalid(field, "must hold another secret than "+holder)
	}
}

// sameList reports whether both fields are items of one list of files: before a rotation the old
// and the new token are often the same.
func sameList(a, b string) bool {
	return strings.HasSuffix(a, "]") && strings.HasSuffix(b, "]") && parentOf(a) == parentOf(b)
}

// checkKeyPair reports a certificate and a key that do not belong together. Files that cannot
// be read are mistakes already.
func (r *report) checkKeyPair(field string, cert, key File) {
	if r.mode != noFiles && cert != "" && key != "" && secretfile.CheckPEM(string(cert)) == nil && secretfile.CheckPEM(string(key)) == nil {
		r.unusable(field, secretfile.CheckKeyPair(string(cert), string(key)))
	}
}
