package credential

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

const redacted = "[redacted]"

// Secret is a plaintext credential or token that every formatter prints as "[redacted]": all
// verbs of fmt, encoding/json, encoding.TextMarshaler and the loggers built on them. Only Reveal
// returns the text, so a search for that name finds every place where a plaintext can leave.
//
// The zero Secret is empty. Secrets are immutable and safe for concurrent use.
type Secret struct {
	// A pointer, because fmt prints unexported fields of an enclosing struct
	// without calling their methods: it then prints an address, not the text.
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

// Empty reports whether the plaintext is empty.
func (s Secret) Empty() bool { return s.Reveal() == "" }

// Digest returns the SHA-256 of the plaintext.
func (s Secret) Digest() Digest {
	var buf [2 * TokenLen]byte // enough for ours; else the conversion allocates
	return sha256.Sum256(append(buf[:0], s.Reveal()...))
}

// Format implements fmt.Formatter for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// String implements fmt.Stringer.
func (s Secret) String() string { return redacted }

// MarshalText implements encoding.TextMarshaler, which JSON and YAML use.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Digest is the SHA-256 of a plaintext credential. It is cached, sent, stored and compared
// instead of the plaintext. Plain SHA-256 without salt is right for secrets of this entropy
// (NIST SP 800-63B 5.1.2.2, OWASP ASVS 5.0 6.5.2).
//
// A whole digest identifies a credential in a stolen database, so a Digest formats as its first
// four bytes only. Only Hex returns the wire form.
type Digest [32]byte

var errDigest = errors.New("must be 64 lower-case hexadecimal digits")

// ParseDigest reads 64 lower-case hexadecimal digits. The error begins with "must" and does not
// repeat the input.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if len(s) != hex.EncodedLen(len(d)) || strings.ToLower(s) != s {
		return Digest{}, errDigest
	}
	if _, err := hex.Decode(d[:], []byte(s)); err != nil {
		return Digest{}, errDigest
	}
	return d, nil
}

// Hex returns the whole digest in its wire form. It must not be logged.
func (d Digest) Hex() string { return hex.EncodeToString(d[:]) }

// String returns the first eight hexadecimal digits and an ellipsis: enough to distinguish two
// digests in a log, not enough to look one up.
func (d Digest) String() string { return hex.EncodeToString(d[:4]) + "…" }

// Format implements fmt.Formatter: every verb prints String.
func (d Digest) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(d.String())) }

// MarshalText implements encoding.TextMarshaler with the short form, so that a marshalled
// struct does not leak a digest. Wire types carry Hex.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }
