package faults_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/internal/lossyproxy"
	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// recoveryTime is the limit for the use of a dead connection to the key API.
const recoveryTime = 6 * time.Second

// All packets of the open connections to the key API are lost, over HTTP/1.1 and over HTTP/2 with TLS, while the sidecar is idle
// and while it resolves. A key that is not cached is resolved, and polls succeed, within recoveryTime.
func TestDeadConnection(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		for _, loaded := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s loaded=%v", scheme, loaded), func(t *testing.T) {
				t.Parallel()
				losePackets(t, scheme, loaded)
			})
		}
	}
}

func losePackets(t *testing.T, scheme string, loaded bool) {
	t.Helper()
	keyd := testbed.Config{}
	s := newFixtureWith(t, func(dir string) testbed.Config {
		listen := testbed.Config{
			"sidecars": "tcp://127.0.0.1:0", "operators": "unix://" + filepath.Join(dir, "operators.sock"),
			"owners": "unix://" + filepath.Join(dir, "owners.sock"), "admin": "tcp://127.0.0.1:0",
		}
		if scheme == "https" {
			writeCertificate(t, dir)
			listen["tls"] = testbed.Config{"cert_file": "cert.pem", "key_file": "key.pem"}
		}
		keyd["listen"], keyd["lease"] = listen, "3s"
		return keyd
	})
	proxy := startProxy(t, s.keyd.Addresses["listen.sidecars"], 0)
	api := testbed.Config{"url": scheme + "://" + proxy.Addr().String(), "token_file": "key-api.token"}
	if scheme == "https" {
		api["tls"] = testbed.Config{"ca_file": "cert.pem"}
	}
	authzd := s.authzd("authzd", testbed.Config{"key_api": api, "cache": testbed.Config{"max_stale": 0, "confirm_after": "1s"}})
	checks := s.checks("authzd")
	eventually(t, "lease", func() error { return metricIs(t, authzd, synced, 1) })
	awaitAllowed(t, checks, []credential.Secret{s.mint().Secret})
	stop := func() {}
	if loaded {
		stop = s.checkUnknownKeys(checks)
	}
	cold := s.mint().Secret
	if proxy.LoseOpen() == 0 {
		t.Fatal("no open connection")
	}
	lost := time.Now()
	awaitAllowed(t, checks, []credential.Secret{cold})
	answered := time.Since(lost)
	eventually(t, "new lease", func() error { return metricIs(t, authzd, synced, 1) })
	polled := time.Since(lost)
	stop()
	if answered > recoveryTime || polled > recoveryTime {
		t.Errorf("uncached key resolved after %v, new lease after %v, want at most %v", answered, polled, recoveryTime)
	}
	t.Logf("%s, loaded %v: uncached key resolved after %v, new lease after %v", scheme, loaded, answered, polled)
}

// checkUnknownKeys checks unknown keys until it is stopped.
func (s *fixture) checkUnknownKeys(checks *testbed.CheckClient) (stop func()) {
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for !closed(over) {
			got, err := checks.CheckAsEnvoy(s.t.Context(), s.UnknownKey())
			if err == nil && got != unknown && got != unavailable && got != rateLimited {
				s.t.Errorf("unknown key: %v", got)
			}
			<-tick.C
		}
	}()
	return func() { close(over); <-done }
}

// The first TCP connection takes 4.6 s, so the sidecar's first poll arrives after it has got a lease from another connection and
// lost that one, and after a key was revoked. The poll must not acknowledge the revocation.
func TestDelayedFirstPoll(t *testing.T) {
	s := newFixtureWith(t, func(dir string) testbed.Config {
		return testbed.Config{"listen": testbed.Config{
			"sidecars": "tcp://127.0.0.1:0", "operators": "unix://" + filepath.Join(dir, "operators.sock"),
			"owners": "unix://" + filepath.Join(dir, "owners.sock"), "admin": "tcp://127.0.0.1:0",
		}, "lease": "6s"}
	})
	key := s.mint()
	proxy := startProxy(t, s.keyd.Addresses["listen.sidecars"], 4600*time.Millisecond)
	authzd := s.authzd("authzd", testbed.Config{
		"key_api":    testbed.Config{"url": "http://" + proxy.Addr().String(), "token_file": "key-api.token"},
		"cache":      testbed.Config{"max_stale": "2s"},
		"start_wait": "0",
	})
	checks := s.checks("authzd")
	eventually(t, "lease", func() error { return metricIs(t, authzd, synced, 1) })
	s.revokeAndCheck(checks, key, proxy.LoseAllButFirst)
	proxy.LoseNone()
	eventually(t, "new lease", func() error { return metricIs(t, authzd, synced, 1) })
}

// An intermediary answers 404 to /v1/changes while a sidecar starts, as an ingress does during a rollout. An effective revocation
// must be denied.
func TestChangesNotFound(t *testing.T) {
	s := newFixture(t, nil)
	rt := newRoute(t, s)
	var polls atomic.Int64
	changesNotFound := answers("404 to polls", func(w http.ResponseWriter, r *http.Request, keyd http.Handler) {
		if r.URL.Path != sidecarapi.ChangesPath {
			keyd.ServeHTTP(w, r)
			return
		}
		http.NotFound(w, r)
		polls.Add(1)
	})
	changesNotFound.begin(t, rt)
	authzd := s.authzd("authzd", testbed.Config{"key_api": testbed.Config{"url": rt.url, "token_file": "key-api.token"}, "start_wait": "0"})
	checks := s.checks("authzd")
	key := s.mint()
	eventually(t, "polls", func() error {
		if polls.Load() == 0 {
			return errors.New("no poll yet")
		}
		return nil
	})
	s.revokeAndCheck(checks, key, func() {})
	if err := metricIs(t, authzd, `phantom_authz_mode{mode="ttl"}`, 0); err != nil {
		t.Error(err)
	}
	changesNotFound.end(t, rt)
	eventually(t, "lease", func() error { return metricIs(t, authzd, synced, 1) })
}

// revokeAndCheck has the key cached, calls between, revokes the key, and waits until that is effective. No check of the key is
// allowed then.
func (s *fixture) revokeAndCheck(checks *testbed.CheckClient, key testbed.Key, between func()) {
	s.t.Helper()
	awaitAllowed(s.t, checks, []credential.Secret{key.Secret})
	between()
	revision := must(s.Operators.Do(s.t.Context(), operatorapi.RevokeKey(key.ID)))(s.t).Change.Revision
	s.awaitEffective(revision)
	const attempts = 300
	for range attempts {
		got, err := checks.CheckAsEnvoy(s.t.Context(), key.Secret)
		if err == nil && got != revoked && got != unavailable {
			s.t.Fatalf("check after an effective revocation: %v", got)
		}
	}
}

// writeCertificate writes a self-signed certificate for the loopback address.
func writeCertificate(t *testing.T, dir string) {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "keyd"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	cert := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))(t)
	raw := must(x509.MarshalPKCS8PrivateKey(key))(t)
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: cert}, "key.pem": {Type: "PRIVATE KEY", Bytes: raw},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// startProxy runs a proxy to a keyd until the test ends.
func startProxy(t *testing.T, to string, delayFirst time.Duration) *lossyproxy.Proxy {
	t.Helper()
	address, err := net.ResolveTCPAddr("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := lossyproxy.Listen("tcp", "127.0.0.1:0", address, delayFirst)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	return proxy
}
