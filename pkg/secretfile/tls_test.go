package secretfile

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
)

// authority is a CA that signs certificates for 127.0.0.1.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	life time.Duration // of the certificates that it issues
}

var serial = big.NewInt(1)

func newAuthority(t *testing.T) *authority {
	key := newKey(t)
	serial = new(big.Int).Add(serial, big.NewInt(1))
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "CA " + serial.String()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t, cert, key, 30 * time.Minute}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// put writes the authority's own certificate.
func (a *authority) put(path string) { put(a.t, path, block("CERTIFICATE", a.cert.Raw)) }

// issue writes a certificate for the name and its key.
func (a *authority) issue(name, certFile, keyFile string) {
	a.t.Helper()
	key := newKey(a.t)
	serial = new(big.Int).Add(serial, big.NewInt(1))
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(a.life),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	put(a.t, certFile, block("CERTIFICATE", der))
	put(a.t, keyFile, block("PRIVATE KEY", keyDER))
}

func block(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// greet serves TLS and sends each client its own name. It returns the address.
func greet(t *testing.T, conf *tls.Config) string {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer func() { _ = conn.Close() }()
				secure := conn.(*tls.Conn)
				if secure.Handshake() != nil {
					return
				}
				name := "anonymous"
				if peers := secure.ConnectionState().PeerCertificates; len(peers) > 0 {
					name = peers[0].Subject.CommonName
				}
				_, _ = io.WriteString(conn, name+"\n")
			})
		}
	})
	t.Cleanup(func() { _ = ln.Close(); all.Wait() })
	return ln.Addr().String()
}

// call dials and returns the names of client and server.
func call(client *Client, addr string) (me, server string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := client.DialTLS(ctx, "tcp", addr)
	if err != nil {
		return "", "", err
	}
	defer func() { _ = conn.Close() }()
	line, err := bufio.NewReader(conn).ReadString('\n')
	peers := conn.(*tls.Conn).ConnectionState().PeerCertificates
	return strings.TrimSpace(line), peers[0].Subject.CommonName, err
}

// due makes the next use look.
func due[T any](w *watched[T]) { w.due.Store(0) }

func TestMutualTLSFollowsChangedFiles(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	ca, other := newAuthority(t), newAuthority(t)
	ca.put(at("ca.pem"))
	ca.issue("server 1", at("server.pem"), at("server.key"))
	ca.issue("client 1", at("client.pem"), at("client.key"))
	conf, err := NewServer(at("server.pem"), at("server.key"), at("ca.pem"), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	addr := greet(t, conf.Config())
	client, err := NewClient(at("ca.pem"), at("client.pem"), at("client.key"), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	expect := func(wantMe, wantServer string) {
		t.Helper()
		if me, server, err := call(client, addr); err != nil || me != wantMe || server != wantServer {
			t.Errorf("found %q at %q and %v, want %q at %q", me, server, err, wantMe, wantServer)
		}
	}
	expect("client 1", "server 1")

	ca.issue("client 2", at("client.pem"), at("client.key"))
	due(client.current)
	expect("client 2", "server 1")

	anonymous, err := NewClient(at("ca.pem"), "", "", zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if me, _, err := call(anonymous, addr); err == nil {
		t.Errorf("a client without a certificate was accepted as %q", me)
	}
	other.issue("client 3", at("client.pem"), at("client.key"))
	due(client.current)
	if me, _, err := call(client, addr); err == nil {
		t.Errorf("a client of another CA was accepted as %q", me)
	}

	other.put(at("ca.pem")) // now the client trusts another CA than the server's
	due(client.current)
	var unknown x509.UnknownAuthorityError
	if _, _, err := call(client, addr); !errors.As(err, &unknown) {
		t.Errorf("a server of another CA: %v", err)
	}
}

// A new certificate without its key changes nothing.
func TestServerFollowsChangedFiles(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	ca := newAuthority(t)
	ca.issue("server 1", at("server.pem"), at("server.key"))
	log, logs := observed()
	current, err := watchServer(at("server.pem"), at("server.key"), "", log)
	if err != nil {
		t.Fatal(err)
	}
	name := func() string {
		due(current)
		leaf, err := x509.ParseCertificate(current.get().conf.Certificates[0].Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return leaf.Subject.CommonName
	}
	ca.issue("server 2", at("server.pem"), at("key.other")) // its key is still missing
	for range 2 {
		if got := name(); got != "server 1" {
			t.Errorf("found %q with half of a new pair", got)
		}
	}
	if logs.Len() != 1 {
		t.Errorf("half of a pair was logged %d times", logs.Len())
	}
	ca.issue("server 3", at("server.pem"), at("server.key"))
	if got := name(); got != "server 3" {
		t.Errorf("found %q", got)
	}
}

func TestInvalidCertificatesAreErrors(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	ca := newAuthority(t)
	ca.issue("a", at("a.pem"), at("a.key"))
	ca.issue("b", at("b.pem"), at("b.key"))
	put(t, at("text"), "no certificate")
	for name, make := range map[string]func() error{
		"another's key":    func() error { _, err := NewServer(at("a.pem"), at("b.key"), "", zap.NewNop()); return err },
		"no key":           func() error { _, err := NewServer(at("a.pem"), at("nowhere"), "", zap.NewNop()); return err },
		"no certificate":   func() error { _, err := NewServer(at("text"), at("a.key"), "", zap.NewNop()); return err },
		"no client CA":     func() error { _, err := NewServer(at("a.pem"), at("a.key"), at("text"), zap.NewNop()); return err },
		"no CA":            func() error { _, err := NewClient(at("text"), "", "", zap.NewNop()); return err },
		"no client's cert": func() error { _, err := NewClient("", at("text"), at("a.key"), zap.NewNop()); return err },
	} {
		if err := make(); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: found %v, want an error that names the file", name, err)
		}
	}
	if err := errors.Join(CheckKeyPair(at("a.pem"), at("a.key")), CheckCAs(at("a.pem")), CheckPEM(at("text"))); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{CheckKeyPair(at("a.pem"), at("b.key")), "certificate " + at("a.pem") + " with key " + at("b.key") + " is invalid: private key does not match public key"},
		{CheckCAs(at("text")), at("text") + " is invalid: must hold a certificate in PEM"},
	} {
		if c.err == nil || c.err.Error() != c.want {
			t.Errorf("found %v, want %s", c.err, c.want)
		}
	}
}

func TestReadClientReadsPipes(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t)
	caFile, certFile, keyFile := filepath.Join(dir, "ca"), filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	ca.put(caFile)
	ca.issue("client", certFile, keyFile)
	piped := func(path string) string {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return pipe(t, string(raw))
	}
	conf, err := ReadClient(piped(caFile), piped(certFile), piped(keyFile), zap.NewNop())
	if err != nil || len(conf.Certificates) != 1 || conf.RootCAs == nil {
		t.Errorf("got %+v, %v", conf, err)
	}
	if conf, err := ReadClient("", "", "", zap.NewNop()); err != nil || conf.RootCAs != nil {
		t.Errorf("without files: %v", err)
	}
	if _, err := ReadClient(pipe(t, "nonsense"), "", "", zap.NewNop()); err == nil || !strings.Contains(err.Error(), "must hold a certificate") {
		t.Errorf("nonsense: %v", err)
	}
}

func TestClientOffersHTTP2(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	ca := newAuthority(t)
	ca.put(at("ca.pem"))
	ca.issue("server", at("server.pem"), at("server.key"))
	conf, err := NewServer(at("server.pem"), at("server.key"), "", zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", conf.Config())
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.NotFoundHandler()}
	var all sync.WaitGroup
	all.Go(func() { _ = server.Serve(ln) })
	defer func() { _ = server.Close(); all.Wait() }()
	client, err := NewClient(at("ca.pem"), "", "", zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialTLSContext: client.DialTLS, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	answer, err := (&http.Client{Transport: transport}).Get("https://" + ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.ProtoMajor != 2 {
		t.Errorf("spoke %s", answer.Proto)
	}
}

// The end of a certificate is known before a connection uses it, also after a replacement.
func TestExpiries(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	ca := newAuthority(t)
	ca.put(at("ca.pem"))
	ca.issue("a", at("cert.pem"), at("key.pem"))
	leaf, err := os.ReadFile(at("cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	put(t, at("cert.pem"), string(leaf)+block("CERTIFICATE", ca.cert.Raw)) // a chain, whose first end counts
	server, err := NewServer(at("cert.pem"), at("key.pem"), at("ca.pem"), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	client, err := NewClient(at("ca.pem"), "", "", zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	end := func(path string) time.Time {
		t.Helper()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		first, _ := pem.Decode(data)
		cert, err := x509.ParseCertificate(first.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return cert.NotAfter
	}
	want := map[string]time.Time{"cert_file": end(at("cert.pem")), "client_ca_file": ca.cert.NotAfter}
	if got := server.Expiries(); !maps.Equal(got, want) {
		t.Errorf("server: %v, want %v", got, want)
	}
	if got := client.Expiries(); !maps.Equal(got, map[string]time.Time{"ca_file": ca.cert.NotAfter}) {
		t.Errorf("client: %v", got)
	}
	ca.life *= 2
	ca.issue("b", at("cert.pem"), at("key.pem"))
	due(server.current)
	if got := server.Expiries()["cert_file"]; !got.Equal(end(at("cert.pem"))) || got.Equal(want["cert_file"]) {
		t.Errorf("after a replacement: %v", got)
	}
}
