package k8s

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// freeAddresses returns a free loopback address for each of keyd's ports in the Pod.
func freeAddresses(t *testing.T, ports ...string) map[string]string {
	t.Helper()
	addresses := map[string]string{}
	for _, port := range ports {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = listener.Close() }() // after the last one, so that all differ
		addresses[port] = listener.Addr().String()
	}
	return addresses
}

// runKeyd starts keyd with the files of its Pod on loopback addresses, and returns these by the port in the Pod.
func runKeyd(t *testing.T, m *manifests) map[string]string {
	t.Helper()
	run, err := os.MkdirTemp("", "keyd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	addresses := freeAddresses(t, "8080", "8081", "8082", "8083")
	text := strings.ReplaceAll(m.files()["keyd.yaml"], "/run/phantom", run) + "store: sqlite://" + filepath.Join(run, "keys.db") + "\n"
	for port, address := range addresses {
		text = strings.ReplaceAll(text, "[::]:"+port, address)
	}
	config := filepath.Join(m.volumes(t, m.mustPod(t, "keyd"))["keyd"], "keyd.yaml")
	if err := os.Remove(config); err != nil {
		t.Fatal(err)
	}
	write(t, config, []byte(text))
	cmd := exec.Command(program(t, "keyd"), "-config", config)
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("keyd: %v\n%s", err, log.String())
		}
	})
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for range 200 {
		if response, err := http.Get("http://" + addresses["8082"] + "/readyz"); err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return addresses
			}
		}
		<-tick.C
	}
	t.Fatal("keyd is not ready")
	return nil
}

// client returns a client with the certificate of a Secret. It connects to the address whatever the URL is.
func (m *manifests) client(t *testing.T, secret, address string) *http.Client {
	t.Helper()
	for _, s := range m.secrets {
		if s.Name != secret {
			continue
		}
		certificate, err := tls.X509KeyPair(s.Data["tls.crt"], s.Data["tls.key"])
		if err != nil {
			t.Fatal(err)
		}
		authorities := x509.NewCertPool()
		authorities.AppendCertsFromPEM(s.Data["ca.crt"])
		return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{Certificates: []tls.Certificate{certificate}, RootCAs: authorities},
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, address)
			},
		}}
	}
	t.Fatalf("missing Secret %s", secret)
	return nil
}

// authzd's certificate is not accepted for owners, and Envoy's cannot resolve credentials, even with the sidecar's token.
func TestKeydAcceptsEachCertificateAtItsListenerOnly(t *testing.T) {
	m := load(t, demo(t))
	addresses := runKeyd(t, m)
	var token string
	for _, s := range m.secrets {
		if s.Name == "key-api-token" {
			token = string(s.Data["token"])
		}
	}
	for _, c := range []struct {
		secret, port, method, path string
		accepted                   bool
	}{
		{"authzd-tls", "8080", http.MethodPost, "/v1/resolve", true},
		{"envoy-tls", "8080", http.MethodPost, "/v1/resolve", false},
		{"envoy-tls", "8083", http.MethodGet, "/api/v1/me/keys", true},
		{"authzd-tls", "8083", http.MethodGet, "/api/v1/me/keys", false},
	} {
		request, err := http.NewRequest(c.method, "https://keyd:"+c.port+c.path, strings.NewReader(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		if c.port == "8080" {
			request.Header.Set("Authorization", "Bearer "+token)
		} else {
			request.Body = http.NoBody
			request.Header.Set("x-phantom-principal", "session")
			request.Header.Set("x-phantom-account-id", "acme")
			request.Header.Set("x-phantom-credential-id", "ses_1")
		}
		status := 0 // if the handshake fails
		response, err := m.client(t, c.secret, addresses[c.port]).Do(request)
		if err == nil {
			status = response.StatusCode
			_ = response.Body.Close()
		}
		if refused := status == 0 || status == http.StatusUnauthorized || status == http.StatusForbidden; refused == c.accepted {
			t.Errorf("%s at port %s: status %d, %v; accepted must be %t", c.secret, c.port, status, err, c.accepted)
		}
	}
}

// The commands of the README for operators over the network work with the demo's secrets.
func TestOperatorsOverNetwork(t *testing.T) {
	overlay := overNetwork(t)
	secrets := filepath.Join(filepath.Dir(overlay), "demo", "secrets")
	m := load(t, overlay)
	m.secrets = load(t, filepath.Dir(secrets)).secrets
	address := runKeyd(t, m)["8081"]

	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(readme), "\n## Operators over the network\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var script strings.Builder
	for line := range strings.Lines(section) {
		if command, ok := strings.CutPrefix(line, "    "); ok {
			script.WriteString(strings.Replace(command, "localhost:8081", "localhost:"+address[strings.LastIndex(address, ":")+1:], 1))
		}
	}
	shell := exec.Command("sh", "-ec", "kubectl() { :; }\n"+script.String())
	shell.Dir = secrets
	shell.Env = append(os.Environ(), "PATH="+filepath.Dir(program(t, "keyctl"))+":"+os.Getenv("PATH"))
	out, err := shell.Output()
	if err != nil || !regexp.MustCompile(`\nphk_[0-9A-Za-z]{38}\n$`).Match(out) {
		t.Errorf("%v\n%s\n%s", err, script.String(), out)
	}

	anonymous := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	if response, err := anonymous.Get("https://" + address + "/v1/accounts"); err == nil {
		_ = response.Body.Close()
		t.Errorf("without a certificate: %s", response.Status)
	}
}
