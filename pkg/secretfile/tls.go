package secretfile

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"strings"
	"time"

	"go.uber.org/zap"
)

// maxPEM is the size of a file of certificates or of a key in bytes. Larger costs memory for a
// file that was named by mistake; smaller rejects long lists of CAs.
const maxPEM = 1 << 20

// loaded is what TLS needs of the files.
type loaded struct {
	conf     *tls.Config
	expiries map[string]time.Time // immutable
}

// The files of certificates as Expiries names them: as the fields of the configuration.
const (
	certName     = "cert_file"
	clientCAName = "client_ca_file"
	caName       = "ca_file"
)

// Server is the TLS of a server. It is safe for concurrent use.
type Server struct{ current *watched[loaded] }

// NewServer makes the TLS of a server with the certificate chain and key, which
// it reads again when the files change. With a client CA file it requires a client certificate
// that one of these CAs has signed; "" requires none. It accepts TLS 1.2 and later and offers
// HTTP/2 and HTTP/1.1.
func NewServer(certFile, keyFile, clientCAFile string, log *zap.Logger) (*Server, error) {
	current, err := watchServer(certFile, keyFile, clientCAFile, log)
	if err != nil {
		return nil, err
	}
	return &Server{current}, nil
}

// Config returns the configuration of a listener, which uses the current files for each connection.
func (s *Server) Config() *tls.Config {
	// Each configuration has its own keys for session tickets, so no client resumes a session
	// that was authenticated by a previous CA.
	conf := newConfig()
	conf.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.current.get().conf, nil }
	return conf
}

// Expiries returns when the certificates of the current files end, by cert_file and client_ca_file: the
// first end of a chain, the last end of several CAs, from which on no peer is accepted. Do not change
// the map.
func (s *Server) Expiries() map[string]time.Time { return s.current.get().expiries }

func watchServer(certFile, keyFile, clientCAFile string, log *zap.Logger) (*watched[loaded], error) {
	return watch([]string{certFile, keyFile, clientCAFile}, []string{keyFile}, log, func() (loaded, error) {
		cert, err := readKeyPair(certFile, keyFile)
		if err != nil {
			return loaded{}, err
		}
		l := loaded{newConfig(), map[string]time.Time{certName: endOf(cert)}}
		l.conf.Certificates = []tls.Certificate{cert}
		if clientCAFile != "" {
			l.conf.ClientAuth = tls.RequireAndVerifyClientCert
			l.conf.ClientCAs, l.expiries[clientCAName], err = readCAs(clientCAFile)
		}
		return l, err
	})
}

// Client dials with TLS. It is safe for concurrent use.
type Client struct{ current *watched[loaded] }

// Expiries is that of Server, by cert_file and ca_file.
func (c *Client) Expiries() map[string]time.Time { return c.current.get().expiries }

// NewClient makes a client that trusts the CAs in the file ("": the system's) and presents the
// certificate with its key ("": none). After a change of the files, new connections use the new
// content.
func NewClient(caFile, certFile, keyFile string, log *zap.Logger) (*Client, error) {
	current, err := watch([]string{caFile, certFile, keyFile}, []string{keyFile}, log, func() (loaded, error) {
		return readClient(caFile, certFile, keyFile)
	})
	if err != nil {
		return nil, err
	}
	return &Client{current}, nil
}

// ReadClient reads the configuration of a client as NewClient does, once and also from pipes.
func ReadClient(caFile, certFile, keyFile string, log *zap.Logger) (*tls.Config, error) {
	l, err := readClient(caFile, certFile, keyFile)
	if err == nil && keyFile != "" {
		warnIfOpen(keyFile, log)
	}
	return l.conf, err
}

func readClient(caFile, certFile, keyFile string) (l loaded, err error) {
	conf, expiries := newConfig(), map[string]time.Time{}
	if caFile != "" {
		if conf.RootCAs, expiries[caName], err = readCAs(caFile); err != nil {
			return loaded{}, err
		}
	}
	if certFile != "" {
		cert, err := readKeyPair(certFile, keyFile)
		if err != nil {
			return loaded{}, err
		}
		conf.Certificates, expiries[certName] = []tls.Certificate{cert}, endOf(cert)
	}
	return loaded{conf, expiries}, nil
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
		Config:    c.current.get().conf,
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
	_, err := check(path, func(path string) (*x509.CertPool, error) {
		cas, _, err := readCAs(path)
		return cas, err
	})
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

// readCAs returns the CAs in a file and the last end of one.
func readCAs(path string) (cas *x509.CertPool, last time.Time, err error) {
	data, err := readPEM(path)
	if err != nil {
		return nil, last, err
	}
	cas = x509.NewCertPool()
	if !cas.AppendCertsFromPEM(data) {
		return nil, last, invalid(path, "must hold a certificate in PEM")
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		// What cannot be parsed is not in the pool either.
		if ca, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == "CERTIFICATE" && ca.NotAfter.After(last) {
			last = ca.NotAfter
		}
	}
	return cas, last, nil
}

// endOf returns the first end of a certificate and its chain.
func endOf(cert tls.Certificate) (first time.Time) {
	for _, der := range cert.Certificate {
		if c, err := x509.ParseCertificate(der); err == nil && (first.IsZero() || c.NotAfter.Before(first)) {
			first = c.NotAfter
		}
	}
	return first
}
