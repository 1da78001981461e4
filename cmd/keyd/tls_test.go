package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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

// secured writes certificates and a configuration that uses them; owners are on TCP.
func secured(t *testing.T, more string) (config string, ca *pair) {
	t.Helper()
	config = configure(t, "")
	dir := filepath.Dir(config)
	ca = issue(t, "ca", nil)
	ca.write(t, dir, "ca")
	issue(t, "keyd", ca).write(t, dir, "keyd")
	raw, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(
		"listen:\n", "listen:\n  tls: {cert_file: keyd.crt, key_file: keyd.key, client_ca_file: ca.crt}\n"+more,
		"owners: unix://"+dir+"/owners.sock", "owners: tcp://0.0.0.0:0",
		"sidecar_token_files: [key-api.token]\n", "",
	).Replace(string(raw))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config, ca
}

// askTLS sends a GET with the client's certificate and returns the status, 0 without a connection.
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
	_, port, err := net.SplitHostPort(p.addr["listen."+side])
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

// Without tokens a sidecar is let in by its certificate, and by nothing else.
func TestMutualTLS(t *testing.T) {
	config, ca := secured(t, "")
	p := launch(t, config)
	known, stranger := issue(t, "sidecar", ca), issue(t, "stranger", nil)
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
		{"owners", own, "", known, 404}, // let in: there is no such account
		{"owners", own, "", nil, 0},
		{"owners", own, "", stranger, 0},
	} {
		if got := p.askTLS(ca, c.side, c.path, c.bearer, c.client); got != c.status {
			t.Errorf("%s with token %q: %d, want %d", c.side, c.bearer, got, c.status)
		}
	}
}

// With client_names each side accepts the certificates that it names, after a reload others.
func TestClientNames(t *testing.T) {
	const names = `  client_names: {sidecars: ["spiffe://phantom/authzd"], owners: [envoy.phantom]}` + "\n"
	config, ca := secured(t, names)
	p := launch(t, config)
	sidecar, envoy := issue(t, "spiffe://phantom/authzd", ca), issue(t, "envoy.phantom", ca)
	wrong := func(client *pair, sidecars, operators, owners int) (wrong string) {
		t.Helper()
		for _, c := range []struct {
			side, path, bearer string
			status             int
		}{{"sidecars", "/v1/resolve", "", sidecars}, {"operators", "/v1/accounts", aliceToken, operators}, {"owners", own, "", owners}} {
			if got := p.askTLS(ca, c.side, c.path, c.bearer, client); got != c.status {
				wrong += fmt.Sprintf("%s %s: %d, want %d\n", client.cert.Subject.CommonName, c.side, got, c.status)
			}
		}
		return wrong
	}
	check := func(client *pair, sidecars, operators, owners int) {
		t.Helper()
		if got := wrong(client, sidecars, operators, owners); got != "" {
			t.Error(got)
		}
	}
	check(sidecar, 405, 200, 403)
	check(envoy, 403, 200, 404)
	check(issue(t, "other.phantom", ca), 403, 200, 403)

	other := `  client_names: {operators: [ops.phantom]}` + "\n"
	replaceIn(t, config, names, other)
	p.reload(func() bool { return wrong(sidecar, 405, 403, 404) == "" })
	check(issue(t, "ops.phantom", ca), 405, 200, 404)
	replaceIn(t, config, other, "")
	p.reload(func() bool { return wrong(sidecar, 405, 200, 404) == "" })
}

// reload sends SIGHUP and waits for its effect.
func (p *process) reload(effect func() bool) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		p.t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); !effect(); {
		if time.Now().After(deadline) {
			p.t.Fatalf("the reload had no effect:\n%s", p.logged())
		}
		<-time.After(20 * time.Millisecond)
	}
}

// Envoy alone reaches the owners' side, or those who start keyd are told.
func TestOwnersAddress(t *testing.T) {
	config := configure(t, "")
	socket := filepath.Join(filepath.Dir(config), "owners.sock")
	p := launch(t, config)
	info, err := os.Stat(socket)
	if err != nil || info.Mode() != os.ModeSocket|0o660 {
		t.Errorf("the socket: %v, %v", info.Mode(), err)
	}
	if log := p.logged(); strings.Contains(log, "listen.owners trusts") {
		t.Errorf("warned of a Unix socket: %s", log)
	}
	replaceIn(t, config, "owners: unix://"+socket, "owners: tcp://127.0.0.1:0")
	if log := launch(t, config).logged(); !strings.Contains(log, `"level":"warn"`) || !strings.Contains(log, "listen.owners trusts") {
		t.Errorf("not warned of loopback: %s", log)
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
