//go:build cluster

package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/rest"
)

// programs returns the paths of etcd and kube-apiserver. It builds those that are not in the cache.
func programs(t *testing.T) (etcd, apiserver string) {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	version := output(t, "go", "list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes")
	dir := filepath.Join(cache, "phantom-authz", "kubernetes-"+version)
	build := func(name, pkg, flags string) string {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path
		}
		t.Logf("building %s into %s", name, dir)
		unfinished := path + ".unfinished"
		output(t, "go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w "+flags, "-o", unfinished, pkg)
		if err := os.Rename(unfinished, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return build("etcd", "go.etcd.io/etcd/server/v3", ""),
		build("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", "-X k8s.io/component-base/version.gitVersion="+version)
}

// output runs a command in the module of the servers.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = "servers", append(os.Environ(), "GOFLAGS=-mod=readonly", "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		if exit := new(exec.ExitError); errors.As(err, &exit) {
			out = exit.Stderr
		}
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return strings.TrimSpace(string(out))
}

// start runs an API server until the test ends, and returns how an administrator connects to it.
func start(t *testing.T) *rest.Config {
	t.Helper()
	etcd, apiserver := programs(t)
	dir := t.TempDir()
	token := make([]byte, 16)
	_, _ = rand.Read(token) // never fails
	tokens, issuer := filepath.Join(dir, "tokens.csv"), filepath.Join(dir, "issuer.key")
	err := errors.Join(
		os.WriteFile(tokens, fmt.Appendf(nil, "%x,admin,admin,system:masters\n", token), 0o600),
		exec.CommandContext(t.Context(), "openssl", "genrsa", "-out", issuer, "2048").Run(), // signs the tokens of service accounts
	)
	if err != nil {
		t.Fatal(err)
	}
	store, peer, secure := freePort(t), freePort(t), freePort(t)
	run(t, dir, etcd, "--data-dir="+filepath.Join(dir, "etcd"), "--unsafe-no-fsync",
		"--listen-client-urls=http://"+store, "--advertise-client-urls=http://"+store,
		"--listen-peer-urls=http://"+peer, "--initial-advertise-peer-urls=http://"+peer, "--initial-cluster=default=http://"+peer)
	host, port, _ := net.SplitHostPort(secure)
	run(t, dir, apiserver, "--etcd-servers=http://"+store, "--bind-address="+host, "--secure-port="+port,
		"--cert-dir="+filepath.Join(dir, "certificates"), "--token-auth-file="+tokens, "--authorization-mode=RBAC",
		"--service-account-issuer=https://kubernetes", "--service-account-key-file="+issuer, "--service-account-signing-key-file="+issuer,
		"--service-cluster-ip-range=10.0.0.0/24,fd00::/108", "--disable-admission-plugins=ServiceAccount")
	config := &rest.Config{Host: "https://" + secure, BearerToken: hex.EncodeToString(token), QPS: -1}
	config.Insecure = true // the server's own certificate
	waitReady(t, config)
	return config
}

// run runs the program until the test ends, and prints the end of its log if the test failed.
func run(t *testing.T, dir, path string, args ...string) {
	t.Helper()
	file := filepath.Join(dir, filepath.Base(path)+".log")
	log, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		_ = log.Close()
		if text, err := os.ReadFile(file); err == nil && t.Failed() {
			t.Logf("%s: …%s", file, text[max(0, len(text)-2000):])
		}
	})
}

// freePort returns an address on loopback that nothing listens at.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return "127.0.0.1:" + strconv.Itoa(ln.Addr().(*net.TCPAddr).Port)
}

// waitReady waits until /readyz is 200.
func waitReady(t *testing.T, config *rest.Config) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	transport, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: transport}
	var last error
	for tick := time.NewTicker(100 * time.Millisecond); ; {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+"/readyz", nil)
		if err != nil {
			t.Fatal(err)
		}
		if res, err := client.Do(req); err != nil {
			last = err
		} else {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return
			}
			last = fmt.Errorf("/readyz: %s", res.Status)
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the API server does not become ready: %v", last)
		case <-tick.C:
		}
	}
}
