package k8s

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
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

// listenAddress matches the listeners in keyd.yaml that are on the network.
var listenAddress = regexp.MustCompile(`tcp://\[::\]:\d+`)

// runKeyd starts keyd with the files of its Pod on free loopback ports, and returns its addresses by listener.
func runKeyd(t *testing.T, m *manifests) map[string]string {
	t.Helper()
	run, err := os.MkdirTemp("", "keyd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	config := m.configFile(t, m.mustPod(t, "keyd"), "keyd")
	replace(t, config, "/run/phantom", run)
	for _, address := range listenAddress.FindAllString(m.files()["keyd.yaml"], -1) {
		replace(t, config, address, "tcp://127.0.0.1:0")
	}
	replace(t, config, "listen:", "store: sqlite://"+filepath.Join(run, "keys.db")+"\nlisten:")
	cmd := exec.Command(program(t, "keyd"), "-config", config)
	stderr, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	started, drained := make(chan map[string]string, 1), make(chan struct{})
	go func() {
		defer close(drained)
		defer close(started)
		addresses := map[string]string{}
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			log.WriteString(lines.Text() + "\n")
			var line struct{ Msg, Field, Address string }
			_ = json.Unmarshal(lines.Bytes(), &line) // another line is of no interest
			switch line.Msg {
			case "listening":
				addresses[strings.TrimPrefix(line.Field, "listen.")] = line.Address
			case "started":
				started <- addresses
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-drained
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("keyd: %v\n%s", err, log.String())
		}
	})
	addresses, ok := <-started
	if !ok {
		t.Fatal("keyd has not started")
	}
	return addresses
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
		secret, listener, method, path string
		accepted                       bool
	}{
		{"authzd-tls", "sidecars", http.MethodPost, "/v1/resolve", true},
		{"envoy-tls", "sidecars", http.MethodPost, "/v1/resolve", false},
		{"envoy-tls", "owners", http.MethodGet, "/api/v1/me/keys", true},
		{"authzd-tls", "owners", http.MethodGet, "/api/v1/me/keys", false},
	} {
		request, err := http.NewRequest(c.method, "https://keyd"+c.path, strings.NewReader(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		if c.listener == "sidecars" {
			request.Header.Set("Authorization", "Bearer "+token)
		} else {
			request.Body = http.NoBody
			request.Header.Set("x-phantom-principal", "session")
			request.Header.Set("x-phantom-account-id", "acme")
			request.Header.Set("x-phantom-credential-id", "ses_1")
		}
		status := 0 // if the handshake fails
		response, err := m.client(t, c.secret, addresses[c.listener]).Do(request)
		if err == nil {
			status = response.StatusCode
			_ = response.Body.Close()
		}
		if refused := status == 0 || status == http.StatusUnauthorized || status == http.StatusForbidden; refused == c.accepted {
			t.Errorf("%s at listener %s: status %d, %v; accepted must be %t", c.secret, c.listener, status, err, c.accepted)
		}
	}
}

// The commands of the README for operators over the network work with the demo's secrets.
func TestOperatorsOverNetwork(t *testing.T) {
	overlay := overNetwork(t)
	secrets := filepath.Join(filepath.Dir(overlay), "demo", "secrets")
	m := load(t, overlay)
	m.secrets = load(t, filepath.Dir(secrets)).secrets
	address := runKeyd(t, m)["operators"]

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
