package keyserver

import (
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// sidecar authenticates a sidecar: by a service token, or where none is configured
// by a client certificate that the listener has verified.
func (s *Server) sidecar(r *http.Request) (identity, error) {
	tokens := s.settings.Load().SidecarTokens
	if len(tokens) == 0 {
		if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
			return identity{}, unauthorized("A client certificate is required")
		}
		return identity{}, nil
	}
	presented, err := bearer(r.Header)
	if err != nil {
		return identity{}, err
	}
	found := 0
	for _, token := range tokens {
		found |= same(presented, token())
	}
	if found != 1 {
		return identity{}, s.guessed(r, sidecarsSide, "Invalid service token")
	}
	return identity{}, nil
}

// guessed refuses a wrong token. Good tokens always pass; those who guess are answered at a
// limited rate.
func (s *Server) guessed(r *http.Request, side, message string) error {
	if s.failures[side].allow(r.RemoteAddr) {
		return unauthorized(message)
	}
	return &problem{
		status:  http.StatusTooManyRequests,
		message: "Too many requests with invalid tokens",
		header:  map[string]string{"Retry-After": "1"},
	}
}

// operator authenticates an operator.
func (s *Server) operator(r *http.Request) (identity, error) {
	presented, err := bearer(r.Header)
	if err != nil {
		return identity{}, err
	}
	who := identity{}
	found := 0
	for _, op := range s.settings.Load().Operators {
		if same(presented, op.Token()) == 1 {
			found, who.actor = 1, "operator:"+op.Name
		}
	}
	if found != 1 {
		return identity{}, s.guessed(r, operatorsSide, "Invalid operator token")
	}
	return who, nil
}

// owner reads Envoy's identity headers: each exactly once, or nobody asks.
func (s *Server) owner(r *http.Request) (identity, error) {
	principal, account := r.Header.Values(credential.PrincipalHeader), r.Header.Values(credential.AccountHeader)
	if len(principal) != 1 || principal[0] != credential.Session.String() {
		return identity{}, &problem{status: http.StatusForbidden, message: "Only sessions may manage keys"}
	}
	if len(account) != 1 || !validID(account[0]) {
		return identity{}, &problem{status: http.StatusForbidden, message: "The session's account is not known"}
	}
	return identity{actor: "owner:" + account[0], account: account[0]}, nil
}

func unauthorized(message string) error {
	return &problem{
		status:  http.StatusUnauthorized,
		message: message,
		header:  map[string]string{"WWW-Authenticate": "Bearer"},
	}
}

// bearer reads the one bearer token of a request, which is not empty.
func bearer(h http.Header) (credential.Secret, error) {
	values := h.Values("Authorization")
	if len(values) == 0 {
		return credential.Secret{}, unauthorized("A bearer token is required")
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if len(values) > 1 || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return credential.Secret{}, unauthorized("Malformed Authorization header")
	}
	return credential.NewSecret(token), nil
}

// same tells in constant time whether the token is the presented one: 1 or 0. The
// presented one is never empty, so an empty token is nobody's.
func same(presented, token credential.Secret) int {
	a, b := presented.Digest(), token.Digest()
	return subtle.ConstantTimeCompare(a[:], b[:])
}

// Bounds of failed attempts. Tokens cannot be guessed at any rate; this keeps logs
// and metrics readable and tells a broken script from a typo.
const (
	failuresPerSecond = 5
	failuresBurst     = 50
	failuresPeers     = 1024
)

// failures limits failed attempts by remote peer. The least recently seen peer is
// forgotten first, so its memory is bounded.
type failures struct {
	peers *lru.Cache[string, *rate.Limiter]
}

func newFailures() *failures {
	peers, err := lru.New[string, *rate.Limiter](failuresPeers)
	if err != nil {
		panic(err) // for a size below 1 only
	}
	return &failures{peers: peers}
}

func (f *failures) allow(remote string) bool {
	fresh := rate.NewLimiter(failuresPerSecond, failuresBurst)
	limiter, known, _ := f.peers.PeekOrAdd(peer(remote), fresh)
	if !known {
		limiter = fresh
	} else {
		f.peers.Get(peer(remote)) // marks it as seen
	}
	return limiter.Allow()
}

// peer names who is behind a remote address: an IPv4 address, or an IPv6 network of
// 64 bits, which one host can have for itself.
func peer(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote // a Unix socket's
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	if addr = addr.Unmap(); addr.Is6() {
		if network, err := addr.WithZone("").Prefix(64); err == nil {
			return network.String()
		}
	}
	return addr.String()
}
