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

// maxSecret bounds a secret, in bytes.
const maxSecret = 4 << 10

// MinToken is the least length of a token that a program accepts, in characters. Less
// can be guessed, whatever limits guesses; it is for whoever makes tokens to take many more.
const MinToken = 8

// File is one secret in a file of its own: its text less a byte order mark at the
// beginning and one line break at the end. It is safe for concurrent use.
type File struct {
	path  string
	value *watched[credential.Secret]
}

// Open reads the file of a secret that the program presents to others. An unreadable or
// empty file, one of more than 4 KiB and one with several lines or control characters are
// errors that name the file and never what is in it. If the file becomes so later, the
// secret that was read last stays in use. A file that everybody may read is warned about,
// whenever it is read.
func Open(path string, log *zap.Logger) (*File, error) {
	value, err := watch([]string{path}, []string{path}, log, func() (credential.Secret, error) { return read(path) })
	if err != nil {
		return nil, err
	}
	return &File{path: path, value: value}, nil
}

// OpenToken reads the file of a token that the program accepts from others. It is Open
// but for two things: a token of less than MinToken characters is an error, and while
// the file cannot be used or is gone, Get returns the zero Secret, which nobody can
// present. A rename over the file, and the swap of a symbolic link on the way to it, leave
// no moment in which neither token counts.
func OpenToken(path string, log *zap.Logger) (*File, error) {
	value, err := watch([]string{path}, []string{path}, log, func() (credential.Secret, error) {
		token, err := read(path)
		if err == nil && utf8.RuneCountInString(token.Reveal()) < MinToken {
			return credential.Secret{}, fmt.Errorf("%s is invalid: must hold a token of at least %d characters", path, MinToken)
		}
		return token, err
	})
	if err != nil {
		return nil, err
	}
	value.revoke = true
	return &File{path: path, value: value}, nil
}

// Get returns the secret of the moment. That of Open is never the zero Secret.
func (f *File) Get() credential.Secret { return f.value.get() }

// Path returns the file's name.
func (f *File) Path() string { return f.path }

func read(path string) (credential.Secret, error) {
	data, err := readBounded(path, maxSecret)
	if err != nil {
		return credential.Secret{}, err
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	switch {
	case text == "":
		return credential.Secret{}, fmt.Errorf("%s is empty, it must hold a secret", path)
	case strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f }):
		return credential.Secret{}, fmt.Errorf("%s holds several lines or control characters, it must hold one line", path)
	}
	return credential.NewSecret(text), nil
}

// byteOrderMark is what some editors write at the beginning of a file in UTF-8.
const byteOrderMark = "\ufeff"

// readBounded reads a file of at most limit bytes, not counting a byte order mark.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	data, err := io.ReadAll(io.LimitReader(f, limit+int64(len(byteOrderMark))+1))
	data = bytes.TrimPrefix(data, []byte(byteOrderMark))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s holds more than %d bytes", path, limit)
	}
	return data, nil
}
