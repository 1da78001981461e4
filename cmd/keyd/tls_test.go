package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
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

// issue makes a certificate that the CA has signed; its own without one.
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

// write puts both into dir as NAME.crt and NAME.key.
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
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Without tokens a sidecar is let in by its certificate, and by nothing else.
func TestMutualTLS(t *testing.T) {
	config := configure(t, "")
	dir := filepath.Dir(config)
	ca, stranger := issue(t, "ca", nil), issue(t, "stranger", nil)
	ca.write(t, dir, "ca")
	issue(t, "keyd", ca).write(t, dir, "keyd")
	raw, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(
		"listen:\n", "listen:\n  tls: {cert_file: keyd.crt, key_file: keyd.key, client_ca_file: ca.crt}\n",
		"sidecar_token_files: [key-api.token]\n", "",
	).Replace(string(raw))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := launch(t, config)

	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	ask := func(side, path, bearer string, client *pair) int {
		conf := &tls.Config{RootCAs: roots}
		if client != nil {
			conf.Certificates = []tls.Certificate{{Certificate: [][]byte{client.cert.Raw}, PrivateKey: client.key}}
		}
		transport := &http.Transport{TLSClientConfig: conf}
		defer transport.CloseIdleConnections()
		r, err := http.NewRequest("GET", "https://"+p.addr["listen."+side]+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if bearer != "" {
			r.Header.Set("Authorization", "Bearer "+bearer)
		}
		resp, err := transport.RoundTrip(r)
		if err != nil {
			return 0 // no connection
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	known := issue(t, "sidecar", ca)
	for _, c := range []struct {
		side, path, bearer string
		client             *pair
		status             int
	}{
		{"sidecars", "/v1/resolve", "", known, 405}, // let in: it is a POST
		{"sidecars", "/v1/resolve", "", nil, 0},
		{"sidecars", "/v1/resolve", sidecarToken, nil, 0},
		{"sidecars", "/v1/resolve", "", stranger, 0},
		{"operators", "/v1/accounts", "", known, 401}, // a certificate makes no operator
		{"operators", "/v1/accounts", aliceToken, known, 200},
		{"operators", "/v1/accounts", aliceToken, nil, 0},
	} {
		if got := ask(c.side, c.path, c.bearer, c.client); got != c.status {
			t.Errorf("%s with token %q: %d, want %d", c.side, c.bearer, got, c.status)
		}
	}
}
