package keyserver

import (
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"slices"
)

// ClientNames are the subject alternative names (DNS or URI, compared byte by byte) of the client
// certificates that each side accepts. A list that is nil accepts every name.
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

// acceptCertificate refuses a connection whose client certificate has none of the side's names,
// where there is a list of them. Only a Unix socket needs no certificate then: a connection over
// TCP without one is refused, also before a restart has taken up listen.tls.
func (s *Server) acceptCertificate(r *http.Request, side string) error {
	names := s.settings.Load().ClientNames.of(side)
	if names == nil || r.TLS == nil && onUnixSocket(r) {
		return nil
	}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 && hasName(r.TLS.VerifiedChains[0][0], names) {
		return nil
	}
	return &problem{status: http.StatusForbidden, message: "The client certificate is not accepted here"}
}

func hasName(cert *x509.Certificate, names []string) bool {
	return slices.ContainsFunc(cert.DNSNames, func(name string) bool { return slices.Contains(names, name) }) ||
		slices.ContainsFunc(cert.URIs, func(uri *url.URL) bool { return slices.Contains(names, uri.String()) })
}

func onUnixSocket(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && local.Network() == "unix"
}
