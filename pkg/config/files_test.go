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

	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/secretfile"
)

// certificate makes a self-signed certificate and its key.
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

// What passes here is what package secretfile can open at the start.
func TestSecretRulesAgree(t *testing.T) {
	for name, content := range map[string]string{
		"token": "abc", "newline": "abc\n", "crlf": "abc\r\n", "two newlines": "abc\n\n", "empty": "", "newline only": "\n",
		"two lines": "a\nb", "tab": "a\tb", "space": " a ", "not ASCII": "ä", "NUL": "a\x00", "DEL": "a\x7f",
		"largest": strings.Repeat("a", maxSecret), "too large": strings.Repeat("a", maxSecret+1),
	} {
		dir := folder(t, "key_api: {url: 'http://a', token_file: secret}")
		path := filepath.Join(dir, "secret")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, loadErr := LoadAuthzd(filepath.Join(dir, "c.yaml"))
		_, openErr := secretfile.Open(path, zap.NewNop())
		if (loadErr == nil) != (openErr == nil) {
			t.Errorf("%s: the configuration says %v, secretfile %v", name, loadErr, openErr)
		}
	}
}

func TestCertificateOfAnotherKey(t *testing.T) {
	dir := folder(t, "listen: {tls: {cert_file: cert.pem, key_file: other.pem}}")
	_, other := certificate(t)
	if err := os.WriteFile(filepath.Join(dir, "other.pem"), []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := LoadKeyd(filepath.Join(dir, "c.yaml"))
	const want = ":1: listen.tls: found a certificate and key that cannot be used: private key does not match public key, " +
		"allowed a certificate chain in PEM and the key of its first certificate"
	if err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("found %v, want %s", err, want)
	}
}
