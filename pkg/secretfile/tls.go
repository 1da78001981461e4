package secretfile

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"strings"
	"time"

	"go.uber.org/zap"
)

// maxPEM is the size of a file of certificates or of a key in bytes. Larger costs memory for a
// file that was named by mistake; smaller rejects long lists of CAs.
const maxPEM = 1 << 20

// NewServer returns the TLS configuration of a server with the certificate chain and key, which
// it reads again when the files change. With a client CA file it requires a client certificate
// that one of these CAs has signed; "" requires none. It accepts TLS 1.2 and later and offers
// HTTP/2 and HTTP/1.1.
func NewServer(certFile, keyFile, clientCAFile string, log *zap.Logger) (*tls.Config, error) {
	current, err := watchServer(certFile, keyFile, clientCAFile, log)
	if err != nil {
		return nil, err
	}
	// Each configuration has its own keys for session tickets, so no client resumes a session
	// that was authenticated by a previous CA.
	conf := newConfig()
	conf.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return current.get(), nil }
	return conf, nil
}

func watchServer(certFile, keyFile, clientCAFile string, log *zap.Logger) (*watched[*tls.Config], error) {
	return watch([]string{certFile, keyFile, clientCAFile}, []string{keyFile}, log, func() (*tls.Config, error) {
		cert, err := readKeyPair(certFile, keyFile)
		if err != nil {
			return nil, err
		}
		conf := newConfig()
		conf.Certificates = []tls.Certificate{cert}
		if clientCAFile != "" {
			conf.ClientAuth = tls.RequireAndVerifyClientCert
			conf.ClientCAs, err = readCAs(clientCAFile)
		}
		return conf, err
	})
}

// Client dials with TLS. It is safe for concurrent use.
type Client struct{ current *watched[*tls.Config] }

// NewClient makes a client that trusts the CAs in the file ("": the system's) and presents the
// certificate with its key ("": none). After a change of the files, new connections use the new
// content.
func NewClient(caFile, certFile, keyFile string, log *zap.Logger) (*Client, error) {
	current, err := watch([]string{caFile, certFile, keyFile}, []string{keyFile}, log, func() (*tls.Config, error) {
		return readClient(caFile, certFile, keyFile)
	})
	if err != nil {
		return nil, err
	}
	return &Client{current}, nil
}

// ReadClient reads the configuration of a client as NewClient does, once and also from pipes.
func ReadClient(caFile, certFile, keyFile string, log *zap.Logger) (*tls.Config, error) {
	conf, err := readClient(caFile, certFile, keyFile)
	if err == nil && keyFile != "" {
		warnIfOpen(keyFile, log)
	}
	return conf, err
}

func readClient(caFile, certFile, keyFile string) (conf *tls.Config, err error) {
	conf = newConfig()
	if caFile != "" {
		if conf.RootCAs, err = readCAs(caFile); err != nil {
			return nil, err
		}
	}
	if certFile != "" {
		cert, err := readKeyPair(certFile, keyFile)
		if err != nil {
			return nil, err
		}
		conf.Certificates = []tls.Certificate{cert}
	}
	return conf, nil
}

// Limits of dialling. Larger makes callers wait longer for a peer that does not answer; smaller
// fails on slow links. keepAlive is the time between TCP probes: larger detects a lost peer later.
const (
	dialTimeout      = 2 * time.Second
	handshakeTimeout = 2 * time.Second
	keepAlive        = 15 * time.Second
)

// DialTLS connects to HOST:PORT and completes the TLS handshake. It is the DialTLSContext of an
// http.Transport, which offers HTTP/2 with ForceAttemptHTTP2. One fixed tls.Config would not do,
// because crypto/tls has no hook that changes a client's CAs.
func (c *Client) DialTLS(ctx context.Context, network, addr string) (net.Conn, error) {
	dialer := tls.Dialer{
		NetDialer: &net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive},
		Config:    c.current.get(),
	}
	// NetDialer's timeout does not cover the handshake.
	ctx, cancel := context.WithTimeout(ctx, dialTimeout+handshakeTimeout)
	defer cancel()
	return dialer.DialContext(ctx, network, addr)
}

func newConfig() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
}

// CheckPEM reports whether a file of certificates or of a key can be read, not what it holds.
func CheckPEM(path string) error {
	_, err := check(path, readPEM)
	return err
}

// CheckCAs reports whether NewServer and NewClient would accept a file of CA certificates.
func CheckCAs(path string) error {
	_, err := check(path, readCAs)
	return err
}

// CheckKeyPair reports whether NewServer and NewClient would accept a certificate chain and key.
func CheckKeyPair(certFile, keyFile string) error {
	_, err := stat([]string{certFile, keyFile})
	if err == nil {
		_, err = readKeyPair(certFile, keyFile)
	}
	return err
}

func readPEM(path string) ([]byte, error) { return readBounded(path, maxPEM) }

func readKeyPair(certFile, keyFile string) (tls.Certificate, error) {
	certPEM, err := readPEM(certFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	keyPEM, err := readPEM(keyFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate %s with key %s is invalid: %s", certFile, keyFile, strings.TrimPrefix(err.Error(), "tls: "))
	}
	return cert, nil
}

func readCAs(path string) (*x509.CertPool, error) {
	data, err := readPEM(path)
	if err != nil {
		return nil, err
	}
	cas := x509.NewCertPool()
	if !cas.AppendCertsFromPEM(data) {
		return nil, invalid(path, "must hold a certificate in PEM")
	}
	return cas, nil
}
