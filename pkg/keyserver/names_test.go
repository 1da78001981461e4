package keyserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"testing"
)

// certified is a connection whose client certificate has the names.
func certified(dns, uri string) *tls.ConnectionState {
	cert := &x509.Certificate{}
	if dns != "" {
		cert.DNSNames = []string{"other.example", dns}
	}
	if uri != "" {
		u, err := url.Parse(uri)
		if err != nil {
			panic(err)
		}
		cert.URIs = []*url.URL{u}
	}
	cert.Subject.CommonName = "sidecar.example" // a common name is not a subject alternative name
	return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}, VerifiedChains: [][]*x509.Certificate{{cert, {DNSNames: []string{"envoy.example"}}}}}
}

func TestClientNames(t *testing.T) {
	f := setUp(t)
	f.account("a")
	settings := testSettings()
	settings.ClientNames = ClientNames{
		Sidecars:  []string{"sidecar.example", "spiffe://example/ns/phantom/sa/authzd"},
		Operators: []string{"operator.example"},
		Owners:    []string{"envoy.example"},
	}
	unverified := certified("envoy.example", "")
	unverified.VerifiedChains = nil
	routes := map[string][2]string{
		sidecarsSide: {"POST", "/v1/usage"}, operatorsSide: {"GET", "/v1/accounts"}, ownersSide: {"GET", own},
	}
	bodies := map[string]string{sidecarsSide: `{"sidecar":"s","used":[]}`}
	ask := func(side string, state *tls.ConnectionState, network string) reply {
		r := request(routes[side][0], routes[side][1], bodies[side])
		r.TLS = state
		if network == "unix" {
			r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.UnixAddr{Name: "/s", Net: "unix"}))
		} else {
			r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{}))
		}
		return f.ask(side, r)
	}
	for _, c := range []struct {
		name  string
		state *tls.ConnectionState
		sides string // those that accept it
	}{
		{"a sidecar's DNS name", certified("sidecar.example", ""), sidecarsSide},
		{"a sidecar's URI", certified("", "spiffe://example/ns/phantom/sa/authzd"), sidecarsSide},
		{"an operator's name", certified("operator.example", ""), operatorsSide},
		{"Envoy's name", certified("envoy.example", ""), ownersSide},
		{"another name", certified("stranger.example", ""), ""},
		{"a name as a URI", certified("", "envoy.example"), ownersSide}, // exact, whatever kind it is
		{"another case", certified("ENVOY.example", ""), ""},
		{"a name that contains it", certified("a.envoy.example", ""), ""},
		{"a wildcard", certified("*.example", ""), ""},
		{"no name", certified("", ""), ""},
		{"a certificate that is not verified", unverified, ""},
		{"no certificate", &tls.ConnectionState{}, ""},
		{"no TLS", nil, ""},
	} {
		for side := range routes {
			f.Apply(settings)
			got := ask(side, c.state, "tcp")
			if side == c.sides {
				if got.status >= 300 {
					t.Errorf("%s on the side of %s: %d %s", c.name, side, got.status, got.raw)
				}
			} else {
				got.refused(403, "The client certificate is not accepted here")
			}
			f.Apply(testSettings()) // without lists every name is accepted
			if got := ask(side, c.state, "tcp"); got.status >= 300 {
				t.Errorf("%s on the side of %s without lists: %d %s", c.name, side, got.status, got.raw)
			}
		}
	}
	f.Apply(settings)
	for side := range routes {
		if got := ask(side, nil, "unix"); got.status >= 300 {
			t.Errorf("a Unix socket on the side of %s: %d %s", side, got.status, got.raw)
		}
	}
	// The certificate comes first, also for what needs no token and is nowhere.
	for _, path := range []string{descriptionPath, "/v1/nothing", "/v1//accounts"} {
		r := request("GET", path, "")
		r.TLS = certified("stranger.example", "")
		f.do(operatorsSide, r).refused(403, "certificate")
	}
	// A side without a list of its own accepts every name.
	settings.ClientNames.Sidecars = nil
	f.Apply(settings)
	if got := ask(sidecarsSide, certified("stranger.example", ""), "tcp"); got.status >= 300 {
		t.Errorf("a side without a list: %d", got.status)
	}
	settings.ClientNames.Operators = []string{} // never configured so, and accepts none
	f.Apply(settings)
	ask(operatorsSide, certified("operator.example", ""), "tcp").refused(403)
}
