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
		"token": "canary-1", "newline": "canary-1\n", "crlf": "canary-1\r\n", "two newlines": "canary-1\n\n", "empty": "", "newline only": "\n",
		"two lines": "canary-a\nb", "tab": "canary-a\tb", "space": " canary-a ", "not ASCII": "canary-ä", "NUL": "canary-a\x00", "DEL": "canary-a\x7f",
		"largest": strings.Repeat("a", maxSecret), "too large": strings.Repeat("a", maxSecret+1),
		"mark": "\ufeffcanary-1\r\n", "mark only": "\ufeff", "mark and largest": "\ufeff" + strings.Repeat("a", maxSecret),
		"mark and too large": "\ufeff" + strings.Repeat("a", maxSecret+1), "UTF-16": "\xff\xfec\x00a\x00n\x00a\x00r\x00y\x00",
		"short": "1234567", "short with a mark": "\ufeff1234567\r\n", "8 characters": "äääääääß", "7 characters": "ääääääß",
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
		keyd := "operators: [{name: alice, token_file: secret}]"
		if err := os.WriteFile(filepath.Join(dir, "keyd.yaml"), []byte(keyd), 0o600); err != nil {
			t.Fatal(err)
		}
		_, loadErr = LoadKeyd(filepath.Join(dir, "keyd.yaml"))
		_, openErr = secretfile.OpenToken(path, zap.NewNop())
		if (loadErr == nil) != (openErr == nil) {
			t.Errorf("%s: the configuration says %v, secretfile %v of a token", name, loadErr, openErr)
		}
	}
}

// Files that are missing are no mistake for a check that skips them; bad ones still are.
func TestCheckSkipsMissingFiles(t *testing.T) {
	for _, c := range []struct {
		check      func(string) error
		text, want string
	}{
		{CheckAuthzd, "listen: {tls: {cert_file: no.pem, key_file: key.pem}}\nkey_api: {url: 'https://a', token_file: no/token, tls: {ca_file: no.pem}}", ""},
		{CheckKeyd, "sidecar_token_files: [no]\noperators: [{name: alice, token_file: no}]", ""},
		{CheckKeyd, "sidecar_token_files: [no]\nleese: 15s", "leese"},
		{CheckKeyd, "listen: {tls: {cert_file: cert.pem, key_file: alice.token}}", "cannot be used"},
		{CheckAuthzd, "key_api: {url: 'https://a', token_file: .}", "not a regular file"},
	} {
		err := c.check(filepath.Join(folder(t, c.text), "c.yaml"))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: found %v, want %q", c.text, err, c.want)
		}
	}
	if err := CheckKeyd("/nowhere/c.yaml"); err == nil {
		t.Error("a configuration that does not exist is accepted")
	}
}

// Files with a byte order mark are accepted, the configuration itself too.
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
		t.Errorf("found %+v, %v", cfg, err)
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
