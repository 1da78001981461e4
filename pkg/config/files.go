package config

import (
	"errors"
	"io/fs"
	"strings"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/secretfile"
)

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
