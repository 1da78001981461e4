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

// maxPEM bounds a file of certificates, in bytes.
const maxPEM = 1 << 20

// NewServer returns the TLS configuration of a server with the certificate chain
// and key, which it reads anew when they change. With a client CA file it asks
// every client for a certificate that one of these CAs has signed; "" asks for
// none. TLS 1.2 and up; HTTP/2 and HTTP/1.1 are offered.
func NewServer(certFile, keyFile, clientCAFile string, log *zap.Logger) (*tls.Config, error) {
	current, err := watchServer(certFile, keyFile, clientCAFile, log)
	if err != nil {
		return nil, err
	}
	// A new configuration for each set of files also has new keys for session
	// tickets: nobody resumes a session that another CA has vouched for.
	conf := newConfig()
	conf.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return current.get(), nil }
	return conf, nil
}

func watchServer(certFile, keyFile, clientCAFile string, log *zap.Logger) (*watched[*tls.Config], error) {
	return watch([]string{certFile, keyFile, clientCAFile}, []string{keyFile}, log, func() (*tls.Config, error) {
		cert, err := pair(certFile, keyFile)
		if err != nil {
			return nil, err
		}
		conf := newConfig()
		conf.Certificates = []tls.Certificate{cert}
		if clientCAFile != "" {
			conf.ClientAuth = tls.RequireAndVerifyClientCert
			conf.ClientCAs, err = pool(clientCAFile)
		}
		return conf, err
	})
}

// Client dials with TLS. It is safe for concurrent use.
type Client struct{ current *watched[*tls.Config] }

// NewClient makes a client that trusts the CAs in the file ("": the system's) and
// presents the certificate with its key ("": none). It reads all anew when they
// change, for the connections after that.
func NewClient(caFile, certFile, keyFile string, log *zap.Logger) (*Client, error) {
	current, err := watch([]string{caFile, certFile, keyFile}, []string{keyFile}, log, func() (*tls.Config, error) {
		return readClient(caFile, certFile, keyFile)
	})
	if err != nil {
		return nil, err
	}
	return &Client{current}, nil
}

// Limits of dialling: a peer that does not answer soon will not be of use to whoever waits.
const (
	dialTimeout      = 2 * time.Second
	handshakeTimeout = 2 * time.Second
)

// DialTLS connects to HOST:PORT and shakes hands: the DialTLSContext of an
// http.Transport, which offers HTTP/2 with ForceAttemptHTTP2. (One fixed tls.Config would not do: crypto/tls
// has no hook by which a client's CAs change.)
func (c *Client) DialTLS(ctx context.Context, network, addr string) (net.Conn, error) {
	dialer := tls.Dialer{
		NetDialer: &net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second},
		Config:    c.current.get(),
	}
	// The limit is the handshake's as well, which Dialer's own is not.
	ctx, cancel := context.WithTimeout(ctx, dialTimeout+handshakeTimeout)
	defer cancel()
	return dialer.DialContext(ctx, network, addr)
}

// Config returns the configuration of the moment, not to be changed.
func (c *Client) Config() *tls.Config { return c.current.get() }

func newConfig() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
}

func pair(certFile, keyFile string) (tls.Certificate, error) {
	certPEM, err := readBounded(certFile, maxPEM)
	if err != nil {
		return tls.Certificate{}, err
	}
	keyPEM, err := readBounded(keyFile, maxPEM)
	if err != nil {
		return tls.Certificate{}, err
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("%s with the key %s: %s", certFile, keyFile, strings.TrimPrefix(err.Error(), "tls: "))
	}
	return cert, nil
}

func pool(file string) (*x509.CertPool, error) {
	data, err := readBounded(file, maxPEM)
	if err != nil {
		return nil, err
	}
	cas := x509.NewCertPool()
	if !cas.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", file)
	}
	return cas, nil
}
