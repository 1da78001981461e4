package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pair is a certificate with its key.
type pair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// issue makes a certificate signed by the CA, or self-signed if ca is nil. The name is a DNS name or a URI.
func issue(t *testing.T, name string, ca *pair) *pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  ca == nil,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if uri, err := url.Parse(name); err == nil && uri.Scheme != "" {
		template.URIs = []*url.URL{uri}
	} else {
		template.DNSNames = []string{name}
	}
	signer := ca
	if ca == nil {
		signer = &pair{template, key}
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, signer.cert, &key.PublicKey, signer.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return &pair{cert, key}
}

// write writes NAME.crt and NAME.key to dir.
func (p *pair) write(t *testing.T, dir, name string) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		name + ".crt": {Type: "CERTIFICATE", Bytes: p.cert.Raw},
		name + ".key": {Type: "PRIVATE KEY", Bytes: key},
	} {
		write(t, filepath.Join(dir, file), string(pem.EncodeToMemory(block)))
	}
}

// secured writes certificates and a configuration that uses them, with owners on TCP.
func secured(t *testing.T, more string) (config string, ca *pair) {
	t.Helper()
	config = configure(t, "")
	dir := filepath.Dir(config)
	ca = issue(t, "ca", nil)
	ca.write(t, dir, "ca")
	issue(t, "keyd", ca).write(t, dir, "keyd")
	replaceIn(t, config, "listen:\n", "listen:\n  tls: {cert_file: keyd.crt, key_file: keyd.key, client_ca_file: ca.crt}\n"+more,
		"owners: unix://"+dir+"/owners.sock", "owners: tcp://0.0.0.0:0", "sidecar_token_files: [key-api.token]\n", "")
	return config, ca
}

// askTLS sends a GET with the client's certificate and returns the status, 0 if the handshake fails.
func (p *process) askTLS(ca *pair, side, path, bearer string, client *pair) int {
	p.t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	conf := &tls.Config{RootCAs: roots}
	if client != nil {
		conf.Certificates = []tls.Certificate{{Certificate: [][]byte{client.cert.Raw}, PrivateKey: client.key}}
	}
	transport := &http.Transport{TLSClientConfig: conf}
	defer transport.CloseIdleConnections()
	_, port, err := net.SplitHostPort(p.Addresses["listen."+side])
	if err != nil {
		p.t.Fatal(err)
	}
	r, err := http.NewRequest("GET", "https://127.0.0.1:"+port+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	if side == "owners" {
		r.Header.Set("x-phantom-account-id", "a")
		r.Header.Set("x-phantom-principal", "session")
	}
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := transport.RoundTrip(r)
	if err != nil {
		return 0
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// Without tokens, sidecars authenticate with their certificate only.
func TestMutualTLS(t *testing.T) {
	config, ca := secured(t, "")
	p := launch(t, config)
	known, unknown := issue(t, "sidecar", ca), issue(t, "unknown", nil)
	for _, c := range []struct {
		side, path, bearer string
		client             *pair
		status             int
	}{
		{"sidecars", "/v1/resolve", "", known, 405}, // authenticated: the method must be POST
		{"sidecars", "/v1/resolve", "", nil, 0},
		{"sidecars", "/v1/resolve", sidecarToken, nil, 0},
		{"sidecars", "/v1/resolve", "", unknown, 0},
		{"operators", "/v1/accounts", "", known, 401}, // operators need a token, too
		{"operators", "/v1/accounts", aliceToken, known, 200},
		{"operators", "/v1/accounts", aliceToken, nil, 0},
		{"owners", ownKeys, "", known, 404}, // authenticated: the account is unknown
		{"owners", ownKeys, "", nil, 0},
		{"owners", ownKeys, "", unknown, 0},
	} {
		if got := p.askTLS(ca, c.side, c.path, c.bearer, c.client); got != c.status {
			t.Errorf("%s with token %q: %d, want %d", c.side, c.bearer, got, c.status)
		}
	}
}

// With client_names each side accepts only certificates with these names, also after a reload.
func TestClientNames(t *testing.T) {
	const names = `  client_names: {sidecars: ["spiffe://phantom/authzd"], owners: [envoy.phantom]}` + "\n"
	config, ca := secured(t, names)
	p := launch(t, config)
	sidecar, envoy := issue(t, "spiffe://phantom/authzd", ca), issue(t, "envoy.phantom", ca)
	compare := func(client *pair, sidecars, operators, owners int) error {
		t.Helper()
		var errs []error
		for _, c := range []struct {
			side, path, bearer string
			status             int
		}{{"sidecars", "/v1/resolve", "", sidecars}, {"operators", "/v1/accounts", aliceToken, operators}, {"owners", ownKeys, "", owners}} {
			if got := p.askTLS(ca, c.side, c.path, c.bearer, client); got != c.status {
				errs = append(errs, fmt.Errorf("%s %s: %d, want %d", client.cert.Subject.CommonName, c.side, got, c.status))
			}
		}
		return errors.Join(errs...)
	}
	check := func(client *pair, sidecars, operators, owners int) {
		t.Helper()
		if err := compare(client, sidecars, operators, owners); err != nil {
			t.Error(err)
		}
	}
	check(sidecar, 405, 200, 403)
	check(envoy, 403, 200, 404)
	check(issue(t, "other.phantom", ca), 403, 200, 403)

	other := `  client_names: {operators: [ops.phantom]}` + "\n"
	replaceIn(t, config, names, other)
	p.reload(func() error { return compare(sidecar, 405, 403, 404) })
	check(issue(t, "ops.phantom", ca), 405, 200, 404)
	replaceIn(t, config, other, "")
	p.reload(func() error { return compare(sidecar, 405, 200, 404) })
}

// keyd warns of an owners' address that all local programs reach, and rejects one on the network without client certificates.
func TestOwnersAddress(t *testing.T) {
	config := configure(t, "")
	socket := ownersSocket(config)
	p := launch(t, config)
	info, err := os.Stat(socket)
	if err != nil || info.Mode() != os.ModeSocket|0o660 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
	if log := p.Output(); strings.Contains(log, "listen.owners trusts") {
		t.Errorf("warning about a Unix socket: %s", log)
	}
	replaceIn(t, config, "owners: unix://"+socket, "owners: tcp://127.0.0.1:0")
	if log := launch(t, config).Output(); !strings.Contains(log, `"level":"warn"`) || !strings.Contains(log, "listen.owners trusts") {
		t.Errorf("no warning about loopback: %s", log)
	}
	for _, open := range []string{"tcp://0.0.0.0:0", "tcp://[::]:0", "tcp://192.0.2.1:80", "tcp://keyd:80", "tcp://localhost.example:80"} {
		replaceIn(t, config, "owners: ", "owners: '"+open+"' # ")
		for _, args := range [][]string{{"-config", config}, {"-config", config, "-check"}} {
			code, _, stderr := run(t, args...)
			if code != 2 || !strings.Contains(stderr, "listen.owners is invalid") || !strings.Contains(stderr, "listen.tls.client_ca_file") {
				t.Errorf("%s: exit %d: %s", open, code, stderr)
			}
		}
	}
}
