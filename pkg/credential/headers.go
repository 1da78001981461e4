package credential

// Names of the headers that carry the identity of an allowed request to the upstream.
const (
	AccountHeader    = ReservedPrefix + "account-id"
	PrincipalHeader  = ReservedPrefix + "principal"
	CredentialHeader = ReservedPrefix + "credential-id"
	ScopesHeader     = ReservedPrefix + "scopes"

	// ReservedPrefix begins the name of every header that only the sidecar may set.
	ReservedPrefix = "x-phantom-"
)

// IsReserved reports whether only the sidecar may set a header: its name begins with
// ReservedPrefix. '_' equals '-' and case is ignored, because many servers hand headers on as
// variables (RFC 3875 section 4.1.18), in which these are the same.
func IsReserved[T string | []byte](name T) bool {
	if len(name) < len(ReservedPrefix) {
		return false
	}
	for i := range len(ReservedPrefix) {
		c := name[i]
		switch {
		case c == '_':
			c = '-'
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		}
		if c != ReservedPrefix[i] {
			return false
		}
	}
	return true
}
