package secretfile

import (
	"fmt"
	"io"
	"os"
	"strings"

	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// maxSecret bounds a secret, in bytes.
const maxSecret = 4 << 10

// File is one secret in a file of its own: its text less one trailing line break.
// It is safe for concurrent use.
type File struct {
	path  string
	value *watched[credential.Secret]
}

// Open reads the file. An unreadable or empty file, one of more than 4 KiB and one
// with several lines or control characters are errors that name the file and never what is in
// it. A file that everybody may read is warned about, whenever it is read.
func Open(path string, log *zap.Logger) (*File, error) {
	value, err := watch([]string{path}, log, func() (credential.Secret, error) {
		secret, err := read(path)
		if err == nil {
			warnIfOpen(path, log)
		}
		return secret, err
	})
	if err != nil {
		return nil, err
	}
	return &File{path: path, value: value}, nil
}

// Get returns the secret of the moment. It never fails and is never empty.
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

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // the operator names the files
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s holds more than %d bytes", path, limit)
	}
	return data, nil
}
