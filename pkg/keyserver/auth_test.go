package keyserver

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// Nobody is let in by anything but exactly one header with exactly the token,
// whatever the path and method.
func TestWhoIsLetIn(t *testing.T) {
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
				r.RemoteAddr = fmt.Sprintf("10.0.0.%d:1", len(fmt.Sprint(headers))) // none is limited
				got := f.do(side.name, r)
				got.refused(401)
				if got.header.Get("WWW-Authenticate") != "Bearer" {
					t.Errorf("%q: WWW-Authenticate %q", headers, got.header.Get("WWW-Authenticate"))
				}
			}
		}
		r := request("GET", side.path, "")
		r.Header.Set("Authorization", "bEARER "+side.good)
		if got := f.do(side.name, r); got.status == 401 {
			t.Errorf("a good token was refused: %s", got.raw)
		}
	}
}

// An unauthenticated caller's body is not even read.
func TestBodyOfAStrangerIsNotRead(t *testing.T) {
	f := setUp(t)
	body := &counted{}
	r := request("POST", "/v1/accounts", "x")
	r.Body = io.NopCloser(body)
	f.do("operators", r).refused(401)
	if body.read > 0 {
		t.Error("the body was read")
	}
}

type counted struct{ read int }

func (c *counted) Read(p []byte) (int, error) { c.read += len(p); return len(p), nil }

func TestTokensRotate(t *testing.T) {
	f := setUp(t)
	f.account("a")
	ask := func(path, bearer string) int {
		r := request("GET", path, "")
		r.Header.Set("Authorization", "Bearer "+bearer)
		if path == "/v1/resolve" {
			return f.do("sidecars", r).status
		}
		return f.do("operators", r).status
	}
	if got := ask("/v1/resolve", "an-older-sidecar-token"); got != 405 {
		t.Errorf("any of the tokens: %d", got)
	}
	current := "first"
	settings := testSettings()
	settings.Operators = []Operator{{"carol", func() credential.Secret { return credential.NewSecret(current) }}}
	settings.SidecarTokens = []Token{func() credential.Secret { return credential.NewSecret(current) }}
	f.Apply(settings)
	for _, path := range []string{"/v1/accounts", "/v1/resolve"} {
		current = "first"
		if got := ask(path, "first"); got == 401 {
			t.Errorf("%s: the token of the moment was refused", path)
		}
		current = "second"
		if got := ask(path, "first"); got != 401 {
			t.Errorf("%s: a token of the past: %d", path, got)
		}
		if got := ask(path, "second"); got == 401 {
			t.Errorf("%s: the token of the moment was refused", path)
		}
		current = "" // a file that has been emptied
		for _, bearer := range []string{"", "second"} {
			if got := ask(path, bearer); got != 401 {
				t.Errorf("%s: %q against an empty token: %d", path, bearer, got)
			}
		}
	}
}

// Without tokens a sidecar needs a certificate that its listener has verified;
// without operators nobody is one.
func TestClosedWithoutTokens(t *testing.T) {
	f := setUp(t)
	settings := testSettings()
	settings.SidecarTokens, settings.Operators = nil, nil
	f.Apply(settings)
	for _, state := range []*tls.ConnectionState{nil, {}, {PeerCertificates: []*x509.Certificate{{}}}} {
		r := request("POST", "/v1/resolve", "")
		r.Header.Set("Authorization", "Bearer "+sidecarToken)
		r.TLS = state
		f.do("sidecars", r).refused(401, "certificate")
	}
	r := request("POST", "/v1/resolve", "")
	r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{}}}}
	f.do("sidecars", r).refused(400, "credentials")
	f.operator("GET", "/v1/accounts", "").refused(401)
	// With tokens a certificate alone is not enough.
	f.Apply(testSettings())
	f.do("sidecars", r).refused(401)
}

func TestFailedTokensAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := setUp(t)
		ask := func(remote, bearer string) reply {
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
			sidecar("192.0.2.1:1", "guess").refused(401)
		}
		sidecar("192.0.2.1:1", "guess").refused(429)
		sidecar("192.0.2.1:1", aliceToken).refused(429) // of another side
		sidecar("192.0.2.1:1", sidecarToken).want(204)
		sidecar("192.0.2.1:1", "an-older-sidecar-token").want(204)
		sidecar("192.0.2.2:1", "guess").refused(401)
		ask("192.0.2.1:1", aliceToken).want(200)
		for range failuresBurst {
			ask("192.0.2.1:1", "guess").refused(401)
		}
		limited := ask("192.0.2.1:2", "guess")
		limited.refused(429)
		if limited.header.Get("Retry-After") != "1" {
			t.Error("no retry-after")
		}
		ask("192.0.2.1:3", aliceToken).want(200) // never a good token
		ask("192.0.2.2:1", "guess").refused(401) // nor another peer
		for i := range failuresBurst {
			ask(fmt.Sprintf("[2001:db8:0:1::%x]:1", i), "guess").refused(401)
		}
		ask("[2001:db8:0:1::ffff]:1", "guess").refused(429) // a host's network is one peer
		ask("[2001:db8:0:2::1]:1", "guess").refused(401)
		ask("@", "guess").refused(401) // a Unix socket's peer
		<-time.After(time.Second)
		for range failuresPerSecond {
			ask("192.0.2.1:1", "guess").refused(401)
		}
		ask("192.0.2.1:1", "guess").refused(429)
		// Bounded: many peers do not grow it.
		for i := range 3 * failuresPeers {
			ask(fmt.Sprintf("10.%d.%d.1:1", i/256, i%256), "guess").refused(401)
		}
		if got := f.failures[operatorsSide].peers.Len(); got > failuresPeers {
			t.Errorf("%d peers are remembered", got)
		}
	})
}
