package credential

import (
	"crypto/sha256"
	"fmt"
)

const redacted = "[redacted]"

// Secret is a plaintext credential or token that hides itself from every
// formatter: all verbs of fmt, encoding/json, encoding.TextMarshaler and the
// loggers built on them print "[redacted]". Its text is had by Reveal alone, so
// that a search for that name finds every place where a plaintext can leave.
//
// The zero Secret is empty. Secrets are immutable and safe for concurrent use.
type Secret struct {
	// A pointer, because fmt prints unexported fields of an enclosing struct
	// without calling their methods: it then shows an address, not the text.
	text *string
}

// NewSecret wraps a plaintext.
func NewSecret(plaintext string) Secret { return Secret{text: &plaintext} }

// Reveal returns the plaintext, "" for the zero Secret.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// Empty tells whether there is no plaintext.
func (s Secret) Empty() bool { return s.Reveal() == "" }

// Digest returns the SHA-256 of the plaintext.
func (s Secret) Digest() Digest { return sha256.Sum256([]byte(s.Reveal())) }

// Format implements fmt.Formatter for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// String implements fmt.Stringer.
func (s Secret) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (s Secret) GoString() string { return redacted }

// MarshalText implements encoding.TextMarshaler, and so covers JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
