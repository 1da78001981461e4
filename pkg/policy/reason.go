package policy

// Reason tells why a check was decided as it was; metrics, logs and the dynamic
// metadata carry its name.
type Reason uint8

// The reasons, in the order in which they are checked. The zero Reason is
// Unavailable: what was never decided is answered as if nothing could be learned.
const (
	Unavailable Reason = iota // the facts cannot be had
	NoCredential
	MalformedAuthorization
	SessionOrigin // a session cookie without the web app's origin
	KeyUnknown
	KeyRevoked
	KeyExpired
	SessionExpired // unknown, ended or expired
	AccountTerminated
	NoPolicy // the endpoint has no requirement
	SessionRequired
	KeyRequired
	ScopeMissing
	RateLimited // look-ups of unknown credentials are over the limit
	OK          // the only reason that allows
	reasonCount
)

// challenge says which WWW-Authenticate a denial carries (RFC 6750 section 3).
type challenge uint8

const (
	noChallenge challenge = iota
	plainChallenge
	invalidRequest
	invalidToken
	insufficientScope // keys only
)

// row is one row of the deny table. Status is HTTP's; code is the gRPC status
// (google.rpc.Code) and never 0 on a denial: Envoy takes 0 for an allow.
type row struct {
	name      string
	status    int
	code      int32
	err       string
	message   string
	challenge challenge
	retry     bool // answered with Retry-After: the caller did nothing wrong that time won't mend
}

// HTTP statuses (RFC 9110, RFC 6585).
const (
	statusOK           = 200
	statusUnauthorized = 401
	statusForbidden    = 403
	statusTooMany      = 429
	statusUnavailable  = 503
)

// gRPC statuses (google.rpc.Code).
const (
	codeExhausted       = 8
	codeDenied          = 7
	codeUnavailable     = 14
	codeUnauthenticated = 16
)

func unauthorized(name, message string, c challenge) row {
	return row{name, statusUnauthorized, codeUnauthenticated, "UNAUTHORIZED", message, c, false}
}

func forbidden(name, message string) row {
	return row{name, statusForbidden, codeDenied, "FORBIDDEN", message, noChallenge, false}
}

var table = [reasonCount]row{
	Unavailable: {
		"unavailable", statusUnavailable, codeUnavailable, "SERVICE_UNAVAILABLE",
		"Authorization is temporarily unavailable", noChallenge, true,
	},
	NoCredential:           unauthorized("no_credential", "Missing API key", plainChallenge),
	MalformedAuthorization: unauthorized("malformed_authorization", "Malformed Authorization header", invalidRequest),
	SessionOrigin:          forbidden("session_origin", "Session cookies are accepted only from the web app"),
	KeyUnknown:             unauthorized("key_unknown", "Invalid API key", invalidToken),
	KeyRevoked:             unauthorized("key_revoked", "API key has been revoked", invalidToken),
	KeyExpired:             unauthorized("key_expired", "API key has expired", invalidToken),
	SessionExpired:         unauthorized("session_expired", "Session has expired", plainChallenge),
	AccountTerminated: {
		"account_terminated", statusForbidden, codeDenied, "ACCOUNT_TERMINATED",
		"Account has been terminated", noChallenge, false,
	},
	NoPolicy:        forbidden("no_policy", "No access policy for this endpoint"),
	SessionRequired: forbidden("session_required", "This endpoint is not available to API keys"),
	KeyRequired:     forbidden("key_required", "This endpoint requires an API key"),
	ScopeMissing: {
		"scope_missing", statusForbidden, codeDenied, "FORBIDDEN",
		"Missing required scope: ", insufficientScope, false, // the scope's name follows
	},
	RateLimited: {
		"rate_limited", statusTooMany, codeExhausted, "TOO_MANY_REQUESTS",
		"Too many requests with unknown credentials", noChallenge, true,
	},
	OK: {name: "ok", status: statusOK},
}

// String returns the reason's name in metadata, metrics and logs. A value that is
// none of the constants reads as "unavailable", as it is answered.
func (r Reason) String() string { return r.row().name }

func (r Reason) row() row {
	if r >= reasonCount {
		r = Unavailable
	}
	return table[r]
}

// Reasons returns all reasons, for metrics and tests that must cover each.
func Reasons() []Reason {
	all := make([]Reason, reasonCount)
	for i := range all {
		all[i] = Reason(i)
	}
	return all
}
