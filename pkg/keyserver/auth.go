package keyserver

import (
	"crypto/subtle"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/httpapi"
)

// caller is the authenticated sender of a request. The zero caller is a sidecar's, and of public routes.
type caller struct {
	actor    string // for the audit: operator:NAME or owner:ACCOUNT
	account  string // the owner's; "" on the other sides
	operator bool
}

// authenticateSidecar requires a service token or, if none is configured, a client certificate that the listener
// has verified.
func (s *Server) authenticateSidecar(r *http.Request) (caller, error) {
	tokens := s.settings.Load().SidecarTokens
	if len(tokens) == 0 {
		if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
			return caller{}, unauthorized("A client certificate is required")
		}
		return caller{}, nil
	}
	presented, err := bearer(r.Header)
	if err != nil {
		return caller{}, err
	}
	found := 0
	for _, token := range tokens {
		found |= equal(presented, token())
	}
	if found != 1 {
		return caller{}, s.wrongToken(r, sidecarsSide, "Invalid service token")
	}
	return caller{}, nil
}

func (s *Server) authenticateOperator(r *http.Request) (caller, error) {
	presented, err := bearer(r.Header)
	if err != nil {
		return caller{}, err
	}
	c := caller{}
	for _, op := range s.settings.Load().Operators {
		if equal(presented, op.Token()) == 1 {
			c = caller{actor: "operator:" + op.Name, operator: true}
		}
	}
	if !c.operator {
		return caller{}, s.wrongToken(r, operatorsSide, "Invalid operator token")
	}
	return c, nil
}

// authenticateOwner reads Envoy's identity headers, each of which must be there exactly once.
func authenticateOwner(r *http.Request) (caller, error) {
	principal, account := r.Header.Values(credential.PrincipalHeader), r.Header.Values(credential.AccountHeader)
	if len(principal) != 1 || principal[0] != credential.Session.String() {
		return caller{}, httpapi.Errorf(http.StatusForbidden, "Only sessions may manage keys")
	}
	if len(account) != 1 || !validID(account[0]) {
		return caller{}, httpapi.Errorf(http.StatusForbidden, "The session's account is not known")
	}
	return caller{actor: "owner:" + account[0], account: account[0]}, nil
}

// wrongToken rejects a wrong token. Wrong tokens are rate limited, good ones are not.
func (s *Server) wrongToken(r *http.Request, side, message string) error {
	if s.failures[side].allow(r.RemoteAddr) {
		return unauthorized(message)
	}
	return httpapi.Errorf(http.StatusTooManyRequests, "Too many requests with invalid tokens").RetryAfter(1)
}

func unauthorized(message string) error {
	return &httpapi.Error{Status: http.StatusUnauthorized, Message: message, Header: map[string]string{"WWW-Authenticate": "Bearer"}}
}

// bearer reads the single bearer token of a request, which is not empty.
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

// equal compares in constant time and returns 1 or 0. The presented token is never empty, so an empty token
// equals none.
func equal(presented, token credential.Secret) int {
	a, b := presented.Digest(), token.Digest()
	return subtle.ConstantTimeCompare(a[:], b[:])
}

// Limits of wrong tokens from one peer. They keep logs and metrics readable; tokens are too long to be guessed at
// any rate.
const (
	failuresPerSecond = 5
	failuresBurst     = 50
	// failuresPeers bounds the peers on record. Fewer gives a full burst to peers that take turns; more costs
	// memory.
	failuresPeers = 1024
)

// failures limits wrong tokens by remote peer. The peer that was seen least recently is evicted first.
type failures struct {
	peers *lru.Cache[string, *rate.Limiter]
}

func newFailures() *failures {
	peers, err := lru.New[string, *rate.Limiter](failuresPeers)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return &failures{peers: peers}
}

func (f *failures) allow(remote string) bool {
	limiter := rate.NewLimiter(failuresPerSecond, failuresBurst)
	name := peer(remote)
	if known, ok, _ := f.peers.PeekOrAdd(name, limiter); ok {
		limiter = known
		f.peers.Get(name) // marks it as seen
	}
	return limiter.Allow()
}

// peer returns the IPv4 address, or the IPv6 network of 64 bits, which one host can have for itself.
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

// ClientNames are the subject alternative names (DNS or URI, compared byte by byte) of the client certificates that
// each side accepts. A nil list accepts every name.
type ClientNames struct{ Sidecars, Operators, Owners []string }

func (n ClientNames) of(side string) []string {
	switch side {
	case sidecarsSide:
		return n.Sidecars
	case operatorsSide:
		return n.Operators
	case ownersSide:
		return n.Owners
	}
	return []string{} // accepts none
}

// acceptCertificate rejects a request without one of the side's names in its client certificate, if there is a
// list of them. A Unix socket needs no certificate. A request over TCP without one is rejected even before a
// restart applies listen.tls.
func (s *Server) acceptCertificate(r *http.Request, side string) error {
	names := s.settings.Load().ClientNames.of(side)
	if names == nil || r.TLS == nil && onUnixSocket(r) {
		return nil
	}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 && hasName(r.TLS.VerifiedChains[0][0], names) {
		return nil
	}
	return httpapi.Errorf(http.StatusForbidden, "The client certificate is not accepted here")
}

func hasName(cert *x509.Certificate, names []string) bool {
	return slices.ContainsFunc(cert.DNSNames, func(name string) bool { return slices.Contains(names, name) }) ||
		slices.ContainsFunc(cert.URIs, func(uri *url.URL) bool { return slices.Contains(names, uri.String()) })
}

func onUnixSocket(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && local.Network() == "unix"
}
