// Package secretfile reads tokens (File), server certificates (NewServer) and client certificates
// (Client) from files that may be replaced while the program runs, and has the rules for these files
// (CheckSecret, CheckToken, CheckCAs, CheckKeyPair).
//
// Use costs one atomic load. Every 800 ms one caller also stats the files, following symbolic links,
// so that the link swap of a Kubernetes Secret is a change too. A file that is being written in
// place is read 200 ms later, because it may be incomplete. After a change that cannot be used, the
// last good value stays in use and the log reports it once; a token that the program accepts
// (OpenToken) is then rejected instead.
package secretfile

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

const (
	// maxSecret is the size of a secret in bytes. Larger costs memory for a file that was named
	// by mistake; smaller rejects long tokens.
	maxSecret = 4 << 10

	// MinToken is the length in characters of a token that a program accepts. Smaller allows
	// tokens that can be guessed despite rate limits; larger rejects tokens in use.
	MinToken = 8

	// byteOrderMark begins files in UTF-8 of some editors.
	byteOrderMark = "\ufeff"
)

// File is one secret in a file: its text without a byte order mark at the beginning and one line
// break at the end. It is safe for concurrent use.
type File struct{ value *watched[credential.Secret] }

// Open reads the file of a secret that the program presents to others. It requires a regular file
// of at most 4 KiB with one line, which has no control characters and is not empty. Errors name
// the file and never quote its content. Each read warns about a file that everyone may read.
func Open(path string, log *zap.Logger) (*File, error) { return open(path, log, false, ReadOnce) }

// OpenToken reads the file of a token that the program accepts from others. It differs from Open
// in two ways. A token must have at least MinToken characters. While the file is missing or
// invalid, Get returns the zero Secret, which matches no presented token. A rename over the file
// and the swap of a symbolic link on its path leave no moment in which both tokens are rejected.
func OpenToken(path string, log *zap.Logger) (*File, error) { return open(path, log, true, readToken) }

func open(path string, log *zap.Logger, revoke bool, read func(string) (credential.Secret, error)) (*File, error) {
	value, err := watch([]string{path}, []string{path}, log, func() (credential.Secret, error) { return read(path) })
	if err != nil {
		return nil, err
	}
	value.revoke = revoke
	return &File{value}, nil
}

// Get returns the current secret. It is the zero Secret only after OpenToken.
func (f *File) Get() credential.Secret { return f.value.get() }

// CheckSecret returns the secret in a file and reports whether Open would accept it.
func CheckSecret(path string) (credential.Secret, error) { return check(path, ReadOnce) }

// CheckToken returns the token in a file and reports whether OpenToken would accept it.
func CheckToken(path string) (credential.Secret, error) { return check(path, readToken) }

func check[T any](path string, read func(string) (T, error)) (value T, err error) {
	if _, err = stat([]string{path}); err != nil {
		return value, err
	}
	return read(path)
}

// ReadOnce reads a secret as Open does, once and also from a pipe.
func ReadOnce(path string) (credential.Secret, error) {
	data, err := readBounded(path, maxSecret)
	if err != nil {
		return credential.Secret{}, err
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	switch {
	case text == "":
		return credential.Secret{}, invalid(path, "must not be empty")
	case strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f }):
		return credential.Secret{}, invalid(path, "must hold one line without control characters")
	}
	return credential.NewSecret(text), nil
}

func readToken(path string) (credential.Secret, error) {
	token, err := ReadOnce(path)
	if err == nil && utf8.RuneCountInString(token.Reveal()) < MinToken {
		return credential.Secret{}, invalid(path, "must hold a token of at least %d characters", MinToken)
	}
	return token, err
}

// readBounded reads a file of at most limit bytes, not counting a byte order mark.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	data, err := io.ReadAll(io.LimitReader(f, limit+int64(len(byteOrderMark))+1))
	if err != nil {
		return nil, err
	}
	data = bytes.TrimPrefix(data, []byte(byteOrderMark))
	if int64(len(data)) > limit {
		return nil, invalid(path, "must hold at most %d bytes", limit)
	}
	return data, nil
}

func invalid(path, must string, args ...any) error {
	return fmt.Errorf("%s is invalid: %s", path, fmt.Sprintf(must, args...))
}
