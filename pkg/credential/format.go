package credential

import (
	"crypto/rand"
	"hash/crc32"
	"strings"
)

// The format of minted credentials: a prefix that names the kind, 32 base62 characters from a
// CSPRNG (190 bits), and a CRC-32 (IEEE) of those 36 bytes in base62, most significant digit
// first, padded to 6. The checksum rejects typos and random guesses without a look-up. It is not
// a protection.
const (
	KeyPrefix     = "phk_"
	SessionPrefix = "phs_"

	prefixLen = 4
	randomLen = 32
	sumLen    = 6
	// TokenLen is the length of a minted credential in bytes.
	TokenLen = prefixLen + randomLen + sumLen
	// HintLen is the length of a key's hint in bytes. More reveals random characters; fewer
	// make keys hard to distinguish.
	HintLen = 8

	base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// Mint makes a new credential of the kind, Key or Session. It panics on any other kind.
func Mint(kind Kind) Secret {
	var prefix string
	switch kind {
	case Key:
		prefix = KeyPrefix
	case Session:
		prefix = SessionPrefix
	default:
		panic("credential: no format for this kind")
	}
	text := prefix + RandomBase62(randomLen)
	sum := checksum(text)
	return NewSecret(text + string(sum[:]))
}

// RandomBase62 returns n base62 characters from the system's CSPRNG, each equally likely.
func RandomBase62(n int) string {
	const unbiased = 256 - 256%len(base62) // bytes from here on would favour the first digits
	out := make([]byte, 0, n)
	var buf [64]byte
	for len(out) < n {
		_, _ = rand.Read(buf[:]) // crypto/rand.Read never returns an error (Go 1.24)
		for _, c := range buf {
			if int(c) < unbiased && len(out) < n {
				out = append(out, base62[int(c)%len(base62)])
			}
		}
	}
	return string(out)
}

func checksum(s string) (out [sumLen]byte) {
	sum := ^uint32(0) // as crc32.ChecksumIEEE, which requires a copy of s
	for i := range len(s) {
		sum = crc32.IEEETable[byte(sum)^s[i]] ^ sum>>8
	}
	sum = ^sum
	for i := sumLen - 1; i >= 0; i-- {
		out[i] = base62[sum%uint32(len(base62))]
		sum /= uint32(len(base62))
	}
	return out
}

// Shape is the result of a check of a plaintext's format.
type Shape uint8

// The shapes.
const (
	Foreign      Shape = iota // no prefix of ours: only a look-up can decide
	KeyShape                  // a key of ours with a correct checksum
	SessionShape              // a session token of ours with a correct checksum
	Malformed                 // a prefix of ours with an incorrect length, character or checksum
)

// ShapeOf returns the shape of a plaintext.
func ShapeOf(value string) Shape {
	var shape Shape
	switch {
	case strings.HasPrefix(value, KeyPrefix):
		shape = KeyShape
	case strings.HasPrefix(value, SessionPrefix):
		shape = SessionShape
	default:
		return Foreign
	}
	// The checksum alone would accept any 32 bytes.
	if len(value) != TokenLen || !isBase62(value[prefixLen:]) {
		return Malformed
	}
	if sum := checksum(value[:prefixLen+randomLen]); string(sum[:]) != value[prefixLen+randomLen:] {
		return Malformed
	}
	return shape
}

func isBase62(s string) bool {
	for i := range len(s) {
		if !inBase62[s[i]] {
			return false
		}
	}
	return true
}

// inBase62 has the bytes of base62. A table has no branches: those that depend on random bytes are
// predicted wrongly.
var inBase62 = func() (in [256]bool) {
	for _, c := range []byte(base62) {
		in[c] = true
	}
	return in
}()

// ContainsPlaintext reports whether text contains a minted credential with a correct or incorrect checksum. Text
// such as an import file must not contain one.
func ContainsPlaintext(text string) bool {
	for len(text) >= TokenLen {
		ours := strings.HasPrefix(text, KeyPrefix) || strings.HasPrefix(text, SessionPrefix)
		if ours && isBase62(text[prefixLen:TokenLen]) {
			return true
		}
		text = text[1:]
	}
	return false
}

// Hint returns the first characters of a minted plaintext, by which people recognise a key.
func Hint(plaintext Secret) string {
	return plaintext.Reveal()[:min(HintLen, len(plaintext.Reveal()))]
}
