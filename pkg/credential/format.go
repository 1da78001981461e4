package credential

import (
	"crypto/rand"
	"hash/crc32"
	"strings"
)

// The format of minted credentials: a prefix that names the kind, 32 base62
// characters from a CSPRNG (190 bits), and a CRC-32 (IEEE) of those 36 bytes in
// base62, most significant digit first, padded to 6. The checksum lets a typo or
// a random guess be refused without a look-up; it is no protection of its own.
const (
	KeyPrefix     = "phk_"
	SessionPrefix = "phs_"

	prefixLen = 4
	randomLen = 32
	sumLen    = 6
	// TokenLen is the length of a minted credential in bytes.
	TokenLen = prefixLen + randomLen + sumLen
	// HintLen is how much of a key's plaintext is kept for people to recognise it.
	HintLen = 8

	base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// Mint makes a new credential of the kind, Key or Session. It panics on any
// other kind, which is a mistake of the program.
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
	var b strings.Builder
	b.WriteString(prefix)
	b.WriteString(RandomBase62(randomLen))
	b.WriteString(checksum(b.String()))
	return NewSecret(b.String())
}

// RandomBase62 returns n base62 characters, each of which is equally likely,
// from the system's CSPRNG.
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

func checksum(s string) string {
	sum := crc32.ChecksumIEEE([]byte(s))
	var out [sumLen]byte
	for i := sumLen - 1; i >= 0; i-- {
		out[i] = base62[sum%uint32(len(base62))]
		sum /= uint32(len(base62))
	}
	return string(out[:])
}

// Shape is what a value's form alone tells of it.
type Shape uint8

// The shapes. The zero Shape is Foreign: nothing is known but that it is not ours.
const (
	Foreign      Shape = iota // no prefix of ours: only a look-up can tell
	KeyShape                  // a key of ours with the right checksum
	SessionShape              // a session of ours with the right checksum
	Broken                    // a prefix of ours, but not the length, digits or checksum
)

// ShapeOf tells the shape of a plaintext.
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
	// Only base62 can follow: a CRC alone would accept any 32 bytes.
	if len(value) != TokenLen || !allBase62(value[prefixLen:]) {
		return Broken
	}
	if checksum(value[:prefixLen+randomLen]) != value[prefixLen+randomLen:] {
		return Broken
	}
	return shape
}

func allBase62(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// Hint returns the first characters of a minted plaintext, for people to
// recognise a key by.
func Hint(plaintext Secret) string {
	return plaintext.Reveal()[:min(HintLen, len(plaintext.Reveal()))]
}
