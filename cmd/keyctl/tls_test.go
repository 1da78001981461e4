package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/phantomrouter/phantom-authz/pkg/secretfile"
)

// certify writes NAME.crt and NAME.key: a self-signed certificate for servers on loopback and for clients.
func certify(dir, name string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	write := func(ending, kind string, content []byte) error {
		return os.WriteFile(filepath.Join(dir, name+ending), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600)
	}
	return errors.Join(write(".crt", "CERTIFICATE", cert), write(".key", "PRIVATE KEY", private))
}

// serveMutualTLS serves like keyd with listen.tls: ours.crt is the certificate and the client CA.
// It also makes stranger.crt.
func serveMutualTLS(dir string, h http.Handler) (*httptest.Server, error) {
	if err := errors.Join(certify(dir, "ours"), certify(dir, "stranger")); err != nil {
		return nil, err
	}
	ours := filepath.Join(dir, "ours")
	conf, err := secretfile.NewServer(ours+".crt", ours+".key", ours+".crt", zap.NewNop())
	if err != nil {
		return nil, err
	}
	server := httptest.NewUnstartedServer(h)
	server.TLS = conf.Config()
	server.StartTLS()
	return server, nil
}
