package credential

import (
	"encoding/hex"
	"errors"
	"fmt"
)

// Digest is the SHA-256 of a plaintext credential: what is cached, sent, stored
// and compared in its place. Plain SHA-256 without salt is right for secrets of
// this entropy (NIST SP 800-63B 5.1.2.2, OWASP ASVS 5.0 6.5.2).
//
// A whole digest still finds a credential in a stolen database, so it formats as
// its first four bytes only; the wire form is had by Hex alone.
type Digest [32]byte

var errDigest = errors.New("a digest is 64 lower-case hexadecimal digits")

// ParseDigest reads 64 lower-case hexadecimal digits; anything else is an error
// that does not repeat the input.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if len(s) != hex.EncodedLen(len(d)) {
		return Digest{}, errDigest
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return Digest{}, errDigest
		}
	}
	if _, err := hex.Decode(d[:], []byte(s)); err != nil {
		return Digest{}, errDigest
	}
	return d, nil
}

// Hex returns the whole digest in its wire form. Never for logs.
func (d Digest) Hex() string { return hex.EncodeToString(d[:]) }

// String returns the first eight hexadecimal digits and an ellipsis: enough to
// tell two digests apart in a log, not enough to look one up.
func (d Digest) String() string { return hex.EncodeToString(d[:4]) + "…" }

// Format implements fmt.Formatter: every verb prints String.
func (d Digest) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(d.String())) }

// MarshalText implements encoding.TextMarshaler with the short form, so that a
// digest inside a marshalled struct does not leak; wire types carry Hex.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }
