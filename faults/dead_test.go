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

	"github.com/phantomrouter/phantom-authz/internal/testbed"
	"github.com/phantomrouter/phantom-authz/pkg/credential"
	"github.com/phantomrouter/phantom-authz/pkg/operatorapi"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// deadAfter bounds how long a dead connection to the key API may be used.
const deadAfter = 6 * time.Second

// TestDeadConnection loses all packets of the open connections to the key API, over HTTP/1.1
// and over HTTP/2 with TLS, while the sidecar is idle and while it resolves. A key that is
// not cached is answered again within deadAfter, and the change log is followed again.
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
	s := newSiteWith(t, func(dir string) testbed.Config {
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
	proxy := newTCPProxy(t, s.keyd.Addresses["listen.sidecars"], 0)
	api := testbed.Config{"url": scheme + "://" + proxy.address(), "token_file": "key-api.token"}
	if scheme == "https" {
		api["tls"] = testbed.Config{"ca_file": "cert.pem"}
	}
	authzd := s.authzd("authzd", testbed.Config{"key_api": api, "cache": testbed.Config{"max_stale": 0, "confirm_after": "1s"}})
	checks := s.checks("authzd")
	eventually(t, "a lease", func() error { return metricIs(t, authzd, synced, 1) })
	askHot(t, checks, []credential.Secret{s.mint().Secret})
	stop := func() {}
	if loaded {
		stop = s.resolveAllTheTime(checks)
	}
	cold := s.mint().Secret
	if proxy.loseOpen() == 0 {
		t.Fatal("there was no connection to lose")
	}
	lost := time.Now()
	askHot(t, checks, []credential.Secret{cold})
	answered := time.Since(lost)
	eventually(t, "a lease again", func() error { return metricIs(t, authzd, synced, 1) })
	followed := time.Since(lost)
	stop()
	if answered > deadAfter || followed > deadAfter {
		t.Errorf("a cold key was answered again after %v, the change log was followed again after %v, want %v at most", answered, followed, deadAfter)
	}
	t.Logf("%s, loaded %v: answered after %v, followed after %v", scheme, loaded, answered, followed)
}

// resolveAllTheTime asks for unknown keys until it is stopped.
func (s *site) resolveAllTheTime(checks *testbed.CheckClient) (stop func()) {
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for !closed(over) {
			got, err := checks.CheckAsEnvoy(s.t.Context(), s.UnknownKey())
			if err == nil && got != unknown && got != unavailable && got != rateLimited {
				s.t.Errorf("an unknown key: %v", got)
			}
			<-tick.C
		}
	}()
	return func() { close(over); <-done }
}

// TestDelayedFirstPoll: the first TCP connection takes 4.6 s, so the sidecar's first poll
// arrives when the sidecar has a lease from another connection, has lost that one, and a key
// was revoked. The poll must not acknowledge the revocation: no check that begins when it is
// effective is allowed.
func TestDelayedFirstPoll(t *testing.T) {
	s := newSiteWith(t, func(dir string) testbed.Config {
		return testbed.Config{"listen": testbed.Config{
			"sidecars": "tcp://127.0.0.1:0", "operators": "unix://" + filepath.Join(dir, "operators.sock"),
			"owners": "unix://" + filepath.Join(dir, "owners.sock"), "admin": "tcp://127.0.0.1:0",
		}, "lease": "6s"}
	})
	key := s.mint()
	proxy := newTCPProxy(t, s.keyd.Addresses["listen.sidecars"], 4600*time.Millisecond)
	authzd := s.authzd("authzd", testbed.Config{
		"key_api":    testbed.Config{"url": "http://" + proxy.address(), "token_file": "key-api.token"},
		"cache":      testbed.Config{"max_stale": "2s"},
		"start_wait": "0",
	})
	checks := s.checks("authzd")
	eventually(t, "a lease", func() error { return metricIs(t, authzd, synced, 1) })
	s.revokeAndCheck(checks, key, proxy.loseAllButFirst)
	proxy.loseNone()
	eventually(t, "a lease again", func() error { return metricIs(t, authzd, synced, 1) })
}

// TestChangesNotFound: an intermediary answers 404 to /v1/changes while a sidecar starts, as an
// ingress does during a rollout. The sidecar must not rely on its cache: a revocation that was
// called effective denies from that moment on.
func TestChangesNotFound(t *testing.T) {
	s := newSite(t, nil)
	way := newRoad(t, s)
	var polls atomic.Int64
	changesNotFound := answered("404 to polls", func(w http.ResponseWriter, r *http.Request, keyd http.Handler) {
		if r.URL.Path != sidecarapi.ChangesPath {
			keyd.ServeHTTP(w, r)
			return
		}
		http.NotFound(w, r)
		polls.Add(1)
	})
	changesNotFound.begin(t, way)
	authzd := s.authzd("authzd", testbed.Config{"key_api": testbed.Config{"url": way.url, "token_file": "key-api.token"}, "start_wait": "0"})
	checks := s.checks("authzd")
	key := s.mint()
	eventually(t, "polls", func() error {
		if polls.Load() == 0 {
			return errors.New("none was answered yet")
		}
		return nil
	})
	s.revokeAndCheck(checks, key, func() {})
	if err := metricIs(t, authzd, `phantom_authz_mode{mode="ttl"}`, 0); err != nil {
		t.Error(err)
	}
	changesNotFound.end(t, way)
	eventually(t, "a lease", func() error { return metricIs(t, authzd, synced, 1) })
}

// revokeAndCheck uses the key, lets something happen, revokes the key, waits until that is
// effective, and then checks the key many times: it is never allowed any more.
func (s *site) revokeAndCheck(checks *testbed.CheckClient, key testbed.Key, between func()) {
	s.t.Helper()
	askHot(s.t, checks, []credential.Secret{key.Secret})
	between()
	revision := must(s.Operators.Do(s.t.Context(), operatorapi.RevokeKey(key.ID)))(s.t).Change.Revision
	s.isEffective(revision)
	const attempts = 300
	for range attempts {
		got, err := checks.CheckAsEnvoy(s.t.Context(), key.Secret)
		if err == nil && got != revoked && got != unavailable {
			s.t.Fatalf("after its revocation was effective the key is answered with %v", got)
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
