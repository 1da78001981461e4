package keyserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// A request needs exactly one header with exactly the token, for every path and method.
func TestAuthentication(t *testing.T) {
	f := setUp(t)
	for _, side := range []struct{ name, path, good, other string }{
		{"operators", "/v1/accounts", aliceToken, sidecarToken},
		{"sidecars", "/v1/resolve", sidecarToken, aliceToken},
	} {
		for _, headers := range [][]string{
			nil,
			{""},
			{side.good},
			{"Bearer"},
			{"Bearer "},
			{"Bearer  " + side.good},
			{"Bearer " + side.good + " "},
			{"Bearer\t" + side.good},
			{"Basic " + side.good},
			{"Bearer " + side.other},
			{"Bearer " + side.good[1:]},
			{"Bearer " + side.good + "x"},
			{"Bearer " + strings.ToUpper(side.good)},
			{"Bearer " + side.good, "Bearer " + side.good},
			{"Bearer wrong", "Bearer " + side.good},
			{"Bearer " + side.good + ", Bearer " + side.good},
		} {
			for _, path := range []string{side.path, "/nowhere", "/v1//accounts"} {
				r := request("GET", path, "")
				r.Header["Authorization"] = headers
				r.RemoteAddr = fmt.Sprintf("10.0.0.%d:1", len(fmt.Sprint(headers))) // below the rate limit
				got := f.do(side.name, r)
				got.rejected(401)
				if got.header.Get("WWW-Authenticate") != "Bearer" {
					t.Errorf("%q: WWW-Authenticate %q", headers, got.header.Get("WWW-Authenticate"))
				}
			}
		}
		r := request("GET", side.path, "")
		r.Header.Set("Authorization", "bEARER "+side.good)
		if got := f.do(side.name, r); got.status == 401 {
			t.Errorf("a good token was rejected: %s", got.raw)
		}
	}
}

func TestBodyIsNotReadWithoutAuthentication(t *testing.T) {
	f := setUp(t)
	body := &counted{}
	r := request("POST", "/v1/accounts", "x")
	r.Body = io.NopCloser(body)
	f.do("operators", r).rejected(401)
	if body.read > 0 {
		t.Error("the body was read")
	}
}

type counted struct{ read int }

func (c *counted) Read(p []byte) (int, error) { c.read += len(p); return len(p), nil }

func TestTokensRotate(t *testing.T) {
	f := setUp(t)
	f.account("a")
	send := func(path, bearer string) int {
		r := request("GET", path, "")
		r.Header.Set("Authorization", "Bearer "+bearer)
		if path == "/v1/resolve" {
			return f.do("sidecars", r).status
		}
		return f.do("operators", r).status
	}
	if got := send("/v1/resolve", "an-older-sidecar-token"); got != 405 {
		t.Errorf("the older token: %d", got)
	}
	current := "first"
	settings := testSettings()
	settings.Operators = []Operator{{"carol", func() credential.Secret { return credential.NewSecret(current) }}}
	settings.SidecarTokens = []Token{func() credential.Secret { return credential.NewSecret(current) }}
	f.Apply(settings)
	for _, path := range []string{"/v1/accounts", "/v1/resolve"} {
		current = "first"
		if got := send(path, "first"); got == 401 {
			t.Errorf("%s: the current token was rejected", path)
		}
		current = "second"
		if got := send(path, "first"); got != 401 {
			t.Errorf("%s: an old token: %d", path, got)
		}
		if got := send(path, "second"); got == 401 {
			t.Errorf("%s: the current token was rejected", path)
		}
		current = "" // a file that has been emptied
		for _, bearer := range []string{"", "second"} {
			if got := send(path, bearer); got != 401 {
				t.Errorf("%s: %q against an empty token: %d", path, bearer, got)
			}
		}
	}
}

// Without service tokens a sidecar needs a certificate that its listener has verified. Without operators every
// operator request is rejected.
func TestRejectedWithoutConfiguredTokens(t *testing.T) {
	f := setUp(t)
	settings := testSettings()
	settings.SidecarTokens, settings.Operators = nil, nil
	f.Apply(settings)
	for _, state := range []*tls.ConnectionState{nil, {}, {PeerCertificates: []*x509.Certificate{{}}}} {
		r := request("POST", "/v1/resolve", "")
		r.Header.Set("Authorization", "Bearer "+sidecarToken)
		r.TLS = state
		f.do("sidecars", r).rejected(401, "certificate")
	}
	r := request("POST", "/v1/resolve", "")
	r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{}}}}
	f.do("sidecars", r).rejected(400, "credentials")
	f.operator("GET", "/v1/accounts", "").rejected(401)
	// With tokens a certificate alone is not enough.
	f.Apply(testSettings())
	f.do("sidecars", r).rejected(401)
}

func TestFailedTokensAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		send := func(remote, bearer string) reply {
			r := request("GET", "/v1/accounts", "")
			r.Header.Set("Authorization", "Bearer "+bearer)
			r.RemoteAddr = remote
			return f.do("operators", r)
		}
		sidecar := func(remote, bearer string) reply {
			r := request("POST", "/v1/usage", `{"sidecar":"s","used":[]}`)
			r.Header.Set("Authorization", "Bearer "+bearer)
			r.RemoteAddr = remote
			return f.do("sidecars", r)
		}
		for range failuresBurst {
			sidecar("192.0.2.1:1", "guess").rejected(401)
		}
		sidecar("192.0.2.1:1", "guess").rejected(429)
		sidecar("192.0.2.1:1", aliceToken).rejected(429) // a token of another side
		sidecar("192.0.2.1:1", sidecarToken).want(204)
		sidecar("192.0.2.1:1", "an-older-sidecar-token").want(204)
		sidecar("192.0.2.2:1", "guess").rejected(401)
		send("192.0.2.1:1", aliceToken).want(200)
		for range failuresBurst {
			send("192.0.2.1:1", "guess").rejected(401)
		}
		limited := send("192.0.2.1:2", "guess")
		limited.rejected(429)
		if limited.header.Get("Retry-After") != "1" {
			t.Error("no retry-after")
		}
		send("192.0.2.1:3", aliceToken).want(200)  // good tokens are not limited
		send("192.0.2.2:1", "guess").rejected(401) // other peers are not limited
		for i := range failuresBurst {
			send(fmt.Sprintf("[2001:db8:0:1::%x]:1", i), "guess").rejected(401)
		}
		send("[2001:db8:0:1::ffff]:1", "guess").rejected(429) // an IPv6 /64 is one peer
		send("[2001:db8:0:2::1]:1", "guess").rejected(401)
		send("@", "guess").rejected(401) // a Unix socket's peer
		<-time.After(time.Second)
		for range failuresPerSecond {
			send("192.0.2.1:1", "guess").rejected(401)
		}
		send("192.0.2.1:1", "guess").rejected(429)
		limits := f.failures[operatorsSide]
		for i := range 3 * failuresPeers {
			if remote := fmt.Sprintf("10.%d.%d.1:1", i/256, i%256); !limits.allow(remote) {
				t.Errorf("%s is limited", remote)
			}
		}
		if got := limits.peers.Len(); got > failuresPeers {
			t.Errorf("%d peers on record", got)
		}
	})
}

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
	send := func(side string, state *tls.ConnectionState, network string) reply {
		r := request(routes[side][0], routes[side][1], bodies[side])
		r.TLS = state
		if network == "unix" {
			r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.UnixAddr{Name: "/s", Net: "unix"}))
		} else {
			r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{}))
		}
		return f.send(side, r)
	}
	for _, c := range []struct {
		name  string
		state *tls.ConnectionState
		sides string // that accept it
	}{
		{"a sidecar's DNS name", certified("sidecar.example", ""), sidecarsSide},
		{"a sidecar's URI", certified("", "spiffe://example/ns/phantom/sa/authzd"), sidecarsSide},
		{"an operator's name", certified("operator.example", ""), operatorsSide},
		{"Envoy's name", certified("envoy.example", ""), ownersSide},
		{"another name", certified("unknown.example", ""), ""},
		{"a name as a URI", certified("", "envoy.example"), ownersSide}, // exact, of either kind
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
			got := send(side, c.state, "tcp")
			if side == c.sides {
				if got.status >= 300 {
					t.Errorf("%s on the side of %s: %d %s", c.name, side, got.status, got.raw)
				}
			} else {
				got.rejected(403, "The client certificate is not accepted here")
			}
			f.Apply(testSettings()) // without lists every name is accepted
			if got := send(side, c.state, "tcp"); got.status >= 300 {
				t.Errorf("%s on the side of %s without lists: %d %s", c.name, side, got.status, got.raw)
			}
		}
	}
	f.Apply(settings)
	for side := range routes {
		if got := send(side, nil, "unix"); got.status >= 300 {
			t.Errorf("a Unix socket on the side of %s: %d %s", side, got.status, got.raw)
		}
	}
	// The certificate is checked first, also for public and unknown paths.
	for _, path := range []string{descriptionPath, "/v1/nothing", "/v1//accounts"} {
		r := request("GET", path, "")
		r.TLS = certified("unknown.example", "")
		f.do(operatorsSide, r).rejected(403, "certificate")
	}
	// A side without a list accepts every name.
	settings.ClientNames.Sidecars = nil
	f.Apply(settings)
	if got := send(sidecarsSide, certified("unknown.example", ""), "tcp"); got.status >= 300 {
		t.Errorf("a side without a list: %d", got.status)
	}
	settings.ClientNames.Operators = []string{} // accepts none; a configuration cannot express it
	f.Apply(settings)
	send(operatorsSide, certified("operator.example", ""), "tcp").rejected(403)
}
