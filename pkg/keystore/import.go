package keystore

import (
	"fmt"
	"strings"
)

// MaxImport is the most keys that one Admin.ImportKeys takes: few enough for the changes
// of others to wait a fraction of a second.
const MaxImport = 10_000

// Imported is what an import did.
type Imported struct {
	Imported int // keys that are new
	Existing int // keys that the same account had already, or that were in the list before
	// Revision is of the last change that the import made; with none, the greatest of the
	// keys that it found, 0 for an empty list.
	Revision int64
}

// ImportError is what is wrong with one key of an import: ErrNotFound or a Conflict.
type ImportError struct {
	Index int // in the list, from 0
	Err   error
}

// Error implements error.
func (e *ImportError) Error() string { return fmt.Sprintf("key %d: %v", e.Index, e.Err) }

// Unwrap gives errors.Is and errors.As the cause.
func (e *ImportError) Unwrap() error { return e.Err }

// ImportErrors are all mistakes of an import, in the order of the list; never empty.
type ImportErrors []*ImportError

// Error implements error.
func (e ImportErrors) Error() string {
	const most = 3
	var b strings.Builder
	for i, one := range e {
		if i == most {
			fmt.Fprintf(&b, "; and %d more", len(e)-most)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(one.Error())
	}
	return b.String()
}

// Unwrap gives errors.Is and errors.As all of them.
func (e ImportErrors) Unwrap() []error {
	all := make([]error, len(e))
	for i, one := range e {
		all[i] = one
	}
	return all
}
