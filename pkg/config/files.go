package config

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/secretfile"
)

// Limits of the files that are named, in bytes.
const (
	maxSecret = 4 << 10
	maxPEM    = 1 << 20
)

// files opens every file that the configuration names and reports those that a
// program could not use, so that it never starts with half of what it needs.
func (r *report) files(cfg reflect.Value) {
	holders := map[credential.Digest]string{}
	eachField(cfg, "", func(v reflect.Value, field string, tag reflect.StructTag) {
		kind := tag.Get("file")
		switch x := v.Interface().(type) {
		case File:
			r.file(field, x, kind, holders)
		case []File:
			for i, name := range x {
				r.file(element(field, i), name, kind, holders)
			}
		case *ServerTLS:
			if x != nil {
				r.keyPair(field, x.CertFile, x.KeyFile)
			}
		case *ClientTLS:
			if x != nil {
				r.keyPair(field, x.CertFile, x.KeyFile)
			}
		}
	})
}

func (r *report) file(field string, name File, kind string, holders map[credential.Digest]string) {
	if name == "" {
		return
	}
	limit := int64(maxPEM)
	if kind == "secret" || kind == "token" {
		limit = maxSecret
	}
	data, err := readRegular(string(name), limit)
	if errors.Is(err, fs.ErrNotExist) && r.missingFiles == accepted {
		return
	}
	if err != nil {
		r.wrong(field, string(name)+", which "+err.Error(), "a file that can be read")
		return
	}
	switch kind {
	case "secret", "token":
		r.secret(field, name, kind, string(data), holders)
	case "ca":
		if !x509.NewCertPool().AppendCertsFromPEM(data) {
			r.wrong(field, string(name)+", which holds no certificate", "one or more certificates in PEM")
		}
	}
}

// readRegular is readFile but for pipes and devices, which cannot be read again
// when they change, and might never end. A byte order mark is left out, as package
// secretfile does.
func readRegular(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, bare(err)
	case !info.Mode().IsRegular():
		return nil, errors.New("is not a regular file")
	}
	data, err := readFile(path, limit+int64(len(byteOrderMark)))
	if data = bytes.TrimPrefix(data, []byte(byteOrderMark)); err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("has more than %d bytes", limit)
	}
	return data, err
}

const byteOrderMark = "\ufeff"

// secret looks at what a secret's file holds, with the rules of package
// secretfile. A token stands for one person or one kind of program, so no two of
// these may share it; holders are the fields that have each so far.
func (r *report) secret(field string, name File, kind, text string, holders map[credential.Digest]string) {
	text = strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
	switch {
	case text == "":
		r.wrong(field, string(name)+", which is empty", "a file that holds the secret")
		return
	case strings.ContainsFunc(text, isControl):
		r.wrong(field, string(name)+", which holds several lines or control characters", "one line")
		return
	case kind == "token" && utf8.RuneCountInString(text) < secretfile.MinToken:
		r.wrong(field, fmt.Sprintf("%s, which holds less than %d characters", name, secretfile.MinToken),
			fmt.Sprintf("a token of %d characters or more", secretfile.MinToken))
		return
	}
	digest := credential.NewSecret(text).Digest()
	if before, taken := holders[digest]; taken && !sameList(before, field) {
		r.wrong(field, string(name)+", which holds the same secret as "+before, "a secret of its own")
		return
	}
	if holders[digest] == "" {
		holders[digest] = field
	}
}

// sameList tells whether both fields are items of one list of files: before a
// rotation the old and the new token are often the same.
func sameList(a, b string) bool {
	list, _, isItem := strings.Cut(a, "[")
	return isItem && strings.HasPrefix(b, list+"[") && strings.HasSuffix(a, "]") && strings.HasSuffix(b, "]")
}

// keyPair reports a certificate and a key that do not belong together. Files that
// cannot be read are reported on their own.
func (r *report) keyPair(field string, cert, key File) {
	if cert == "" || key == "" {
		return
	}
	certPEM, certErr := readRegular(string(cert), maxPEM)
	keyPEM, keyErr := readRegular(string(key), maxPEM)
	if errors.Join(certErr, keyErr) != nil {
		return
	}
	if _, err := tls.X509KeyPair(certPEM, keyPEM); err != nil {
		r.wrong(field, "a certificate and key that cannot be used: "+strings.TrimPrefix(err.Error(), "tls: "),
			"a certificate chain in PEM and the key of its first certificate")
	}
}
