package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// certificate returns a self-signed certificate and its key.
func certificate(t *testing.T) (certPEM, keyPEM string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// TestCheckSkipsMissingFiles: a check that skips files accepts absent ones and refuses invalid ones.
func TestCheckSkipsMissingFiles(t *testing.T) {
	for _, c := range []struct {
		check      func(string) error
		text, want string
	}{
		{CheckAuthzd, "listen: {tls: {cert_file: no.pem, key_file: key.pem}}\nkey_api: {url: 'https://a', token_file: no/token, tls: {ca_file: no.pem}}", ""},
		{CheckKeyd, "sidecar_token_files: [no]\noperators: [{name: alice, token_file: no}]", ""},
		{CheckKeyd, "sidecar_token_files: [no]\nleese: 15s", "leese"},
		{CheckKeyd, "listen: {tls: {cert_file: cert.pem, key_file: alice.token}}", "failed to find any PEM data"},
		{CheckAuthzd, "key_api: {url: 'https://a', token_file: .}", "must be a regular file"},
	} {
		err := c.check(filepath.Join(folder(t, c.text), "c.yaml"))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", c.text, err, c.want)
		}
	}
	if err := CheckKeyd("/nowhere/c.yaml"); err == nil {
		t.Error("accepted a configuration that does not exist")
	}
}

// TestByteOrderMark: the configuration and the files that it names may begin with one.
func TestByteOrderMark(t *testing.T) {
	dir := folder(t, "")
	for _, name := range []string{"key-api.token", "alice.token", "cert.pem", "key.pem"} {
		path := filepath.Join(dir, name)
		text, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, append([]byte("\ufeff"), text...), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	keyd := "\ufefflisten: {tls: {cert_file: cert.pem, key_file: key.pem, client_ca_file: cert.pem}}\r\n" +
		"sidecar_token_files: [key-api.token]\r\noperators: [{name: alice, token_file: alice.token}]\r\n"
	if err := os.WriteFile(filepath.Join(dir, "c.yaml"), []byte(keyd), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := LoadKeyd(filepath.Join(dir, "c.yaml"))
	if err != nil || len(cfg.Operators) != 1 {
		t.Errorf("got %+v, %v", cfg, err)
	}
}

func TestCertificateOfAnotherKey(t *testing.T) {
	dir := folder(t, "listen: {tls: {cert_file: cert.pem, key_file: other.pem}}")
	_, other := certificate(t)
	if err := os.WriteFile(filepath.Join(dir, "other.pem"), []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := LoadKeyd(filepath.Join(dir, "c.yaml"))
	const begin, end = ":1:10: listen.tls: ", "private key does not match public key"
	if err == nil || !strings.Contains(err.Error(), begin) || !strings.HasSuffix(err.Error(), end) {
		t.Errorf("got %v, want %q and %q", err, begin, end)
	}
}
