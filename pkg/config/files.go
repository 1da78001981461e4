package config

import (
	"errors"
	"io/fs"
	"reflect"
	"strings"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/secretfile"
)

// files opens every file that the configuration names and reports those that a program could not
// use. Files that do not exist are no mistake if skipMissing is set.
func (r *report) files(cfg reflect.Value, skipMissing bool) {
	c := fileCheck{r, skipMissing, map[credential.Digest]string{}}
	eachField(cfg, "", func(v reflect.Value, field string, tag reflect.StructTag) {
		kind := tag.Get("file")
		switch x := v.Interface().(type) {
		case File:
			c.file(field, string(x), kind)
		case []File:
			for i, name := range x {
				c.file(element(field, i), string(name), kind)
			}
		case *ServerTLS:
			if x != nil {
				c.keyPair(field, x.CertFile, x.KeyFile)
			}
		case *ClientTLS:
			if x != nil {
				c.keyPair(field, x.CertFile, x.KeyFile)
			}
		}
	})
}

type fileCheck struct {
	*report
	skipMissing bool
	holders     map[credential.Digest]string // the field that has each secret
}

func (c *fileCheck) file(field, name, kind string) {
	if name == "" {
		return
	}
	var err error
	switch kind {
	case "secret":
		err = c.secret(field, name, secretfile.CheckSecret)
	case "token":
		err = c.secret(field, name, secretfile.CheckToken)
	case "ca":
		err = secretfile.CheckCAs(name)
	default:
		err = secretfile.CheckPEM(name)
	}
	c.unusable(field, err)
}

func (c *fileCheck) unusable(field string, err error) {
	if err != nil && !(c.skipMissing && errors.Is(err, fs.ErrNotExist)) {
		c.add(c.mark(field), field, field+": "+err.Error())
	}
}

// secret checks the file of a secret. A token identifies one operator or one kind of program, so
// no two fields may have the same one.
func (c *fileCheck) secret(field, name string, check func(string) (credential.Secret, error)) error {
	secret, err := check(name)
	if err != nil {
		return err
	}
	holder, taken := c.holders[secret.Digest()]
	switch {
	case !taken:
		c.holders[secret.Digest()] = field
	case !sameList(holder, field):
		c.invalid(field, "must hold another secret than "+holder)
	}
	return nil
}

// sameList reports whether both fields are items of one list of files: before a rotation the old
// and the new token are often the same.
func sameList(a, b string) bool {
	return strings.HasSuffix(a, "]") && strings.HasSuffix(b, "]") && parentOf(a) == parentOf(b)
}

// keyPair checks that a certificate and a key belong together. Files that cannot be read are
// reported by file.
func (c *fileCheck) keyPair(field string, cert, key File) {
	if cert == "" || key == "" || secretfile.CheckPEM(string(cert)) != nil || secretfile.CheckPEM(string(key)) != nil {
		return
	}
	c.unusable(field, secretfile.CheckKeyPair(string(cert), string(key)))
}
