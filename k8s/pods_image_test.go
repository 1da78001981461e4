//go:build image

package k8s

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// envoyRoot returns a root that replaces the Envoy image: this machine's libraries and shell, and the pinned Envoy.
func envoyRoot(t testing.TB) (root string, mounts []mount) {
	t.Helper()
	path, err := envoyBinary()
	if err != nil {
		t.Fatalf("find Envoy: %v", err)
	}
	root = t.TempDir()
	for _, dir := range []string{"bin", "lib", "lib64", "usr", "opt/envoy", "proc", "sys", "dev", "etc", "run/phantom", "etc/envoy", "etc/phantom/tls", "etc/phantom-authz"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"/bin", "/lib", "/lib64", "/usr"} {
		mounts = append(mounts, mount{dir, dir, true})
	}
	return root, append(mounts, mount{filepath.Dir(path), "/opt/envoy", true})
}

// addModule copies the library of an image with the module to a root that replaces it. It returns the image's variables for Envoy.
func addModule(t testing.TB, target, root string) (env []string) {
	t.Helper()
	command(t, "cp", "-a", filepath.Join(rootOf(t, target), "opt/phantom"), filepath.Join(root, "opt"))
	return moduleEnv(t, target)
}

// start starts a container of a Pod as the kubelet does.
func (c *cluster) start(t testing.TB, p pod, name, root string, volumes map[string]string, env []string, extra ...mount) *container {
	t.Helper()
	k := p.container(name)
	s := spec{
		name: name, host: p.name, root: root, args: append(k.Command, k.Args...), memory: k.Resources.Limits.Memory().Value(),
		env: []string{"PATH=/bin:/opt/envoy:/usr/bin"}, mounts: extra,
	}
	s.env = append(s.env, env...)
	for _, e := range k.Env {
		s.env = append(s.env, e.Name+"="+e.Value)
	}
	for _, m := range k.VolumeMounts {
		s.mounts = append(s.mounts, mount{owned(t, volumes[m.Name]), m.MountPath, m.ReadOnly})
	}
	return c.run(t, s)
}

// probe sends a probe's HTTP or TCP request to the Pod's address.
func (c *cluster) probe(p pod, k *corev1.Container, probe *corev1.Probe) error {
	port := ""
	for _, named := range k.Ports {
		if named.Name == probePort(probe) {
			port = fmt.Sprint(named.ContainerPort)
		}
	}
	path := "/"
	if probe.HTTPGet != nil {
		path = probe.HTTPGet.Path
	}
	response, err := c.client().Get("http://" + c.hosts[p.name] + ":" + port + path)
	if err != nil {
		return err
	}
	_ = response.Body.Close()
	if probe.HTTPGet != nil && response.StatusCode >= 400 {
		return errors.New(response.Status)
	}
	return nil
}

// get sends a request to the Envoy of that host from outside.
func (c *cluster) get(t testing.TB, host, path string, headers ...string) (int, string) {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, "http://"+c.hosts[host]+":10000"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		request.Header.Set(name, value)
	}
	response, err := c.client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// The demo's Pods, each in its own network namespace, run the image and a real Envoy with the commands, environment, files,
// user, read-only root and memory limits of the manifests. Only the kubelet and the network policies are missing.
func TestPods(t *testing.T) { runPods(t, demo(t), "") }

// The same with the module, whose library is that of the image.
func TestPodsWithModule(t *testing.T) { runPods(t, moduleOverlay(t), "envoy-module") }

// runPods runs the Pods of an overlay, with the library of a target of the Dockerfile in Envoy, or with authzd.
func runPods(t *testing.T, overlay, target string) {
	t.Helper()
	root := rootfs(t)
	m := load(t, overlay)
	keydPod, gateway, echoPod := m.mustPod(t, "keyd"), m.mustPod(t, "gateway"), m.mustPod(t, "echo")
	c := newCluster(t, map[string][]string{"gateway": nil, "keyd": nil, "echo": {"upstream"}})

	ready := func(k *container, p pod, name string) *container {
		spec := p.container(name)
		for _, probe := range []*corev1.Probe{spec.StartupProbe, spec.ReadinessProbe, spec.LivenessProbe} {
			if probe != nil {
				k.until("ready", func() error { return c.probe(p, spec, probe) })
			}
		}
		unprivileged(t, k)
		return k
	}
	keyd := ready(c.start(t, keydPod, "keyd", root, m.volumes(t, keydPod), nil), keydPod, "keyd")
	echo := ready(c.start(t, echoPod, "echo", root, nil, nil), echoPod, "echo")
	volumes := m.volumes(t, gateway)
	envoyHome, libraries := envoyRoot(t)
	var env []string
	var authzd *container
	if target != "" {
		env = addModule(t, target, envoyHome)
	} else {
		authzd = ready(c.start(t, gateway, "authzd", root, volumes, nil), gateway, "authzd")
	}
	envoy := ready(c.start(t, gateway, "envoy", envoyHome, volumes, env, libraries...), gateway, "envoy")

	keyctl := func(args ...string) string {
		t.Helper()
		out, err := keyd.exec(append([]string{"keyctl", "-token-file", "/etc/phantom-operators/alice"}, args...)...)
		if err != nil {
			t.Fatalf("keyctl %v: %v", args, err)
		}
		return out
	}
	keyctl("account", "create", "-id", "acme", "-name", "Acme")
	key := keyctl("key", "mint", "-account", "acme", "-label", "chat", "-scope", "chat:companion")
	session := keyctl("session", "mint", "-account", "acme")

	for _, want := range []struct {
		path, header, body string
		status             int
	}{
		{"/api/v1/me/vector-store", "Authorization: Bearer " + key, `"x-phantom-account-id":["acme"]`, 200},
		{"/api/v1/me/vector-store", "X-None: x", "Missing API key", 401},
		{"/api/v1/me/keys", "Authorization: Bearer " + key, "This endpoint is not available to API keys", 403},
		{"/api/v1/me/keys", "Cookie: phantom_session=" + session, `"label":"chat"`, 200}, // Envoy to keyd with mutual TLS
	} {
		status, body := c.get(t, "gateway", want.path, want.header, "Origin: https://app.phantomrouter.ai")
		if status != want.status || !strings.Contains(body, want.body) {
			t.Errorf("%s: %d %s, want %d with %s", want.path, status, body, want.status, want.body)
		}
	}
	// Without a client certificate keyd answers no request, whatever the network policies allow.
	for _, port := range []string{"8080", "8083"} {
		out, err := exec.Command("ip", "netns", "exec", c.bridge, "curl", "-sSk", "--max-time", "5", "-H", "x-phantom-principal: session",
			"-H", "x-phantom-account-id: acme", "https://"+c.hosts["keyd"]+":"+port+"/api/v1/me/keys").CombinedOutput()
		if err == nil {
			t.Errorf("keyd answered port %s without a certificate: %s", port, out)
		}
	}

	// A Pod ends in this order: preStop, Envoy, then the sidecar. While Envoy drains it still answers.
	drained := make(chan error, 1)
	go func() {
		_, err := envoy.exec(gateway.container("envoy").Lifecycle.PreStop.Exec.Command...)
		drained <- err
	}()
	envoy.until("draining", func() error {
		out, err := envoy.exec("bash", "-c", `exec 3<>/dev/tcp/127.0.0.1/9901; printf 'GET /stats?filter=draining HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n' >&3; cat <&3`)
		if err == nil && !strings.Contains(out, "total_listeners_draining") {
			err = errors.New(out)
		}
		return err
	})
	if status, body := c.get(t, "gateway", "/api/v1/me", "Authorization: Bearer "+key); status != 200 {
		t.Errorf("while Envoy drains: %d %s", status, body)
	}
	if err := <-drained; err != nil {
		t.Errorf("preStop: %v", err)
	}
	envoy.stop(10 * time.Second)
	if authzd != nil {
		authzd.stop(12 * time.Second)
	} else if strings.Contains(envoy.output(), "deregistration failed") || !strings.Contains(envoy.output(), `"msg":"stopped"`) {
		t.Error("the module did not stop in order")
	}
	keyd.stop(12 * time.Second)
	echo.stop(5 * time.Second)
}

// unprivileged checks the privileges of the container's process in /proc.
func unprivileged(t *testing.T, k *container) {
	t.Helper()
	pid := command(t, "sh", "-c", `runc list -f json | tr '{' '\n' | sed -n 's/.*"id":"`+k.name+`","pid":\([0-9]*\).*/\1/p'`)
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Uid:\t65532\t65532\t65532\t65532\n", "CapEff:\t0000000000000000\n", "NoNewPrivs:\t1\n"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("%s: missing %[3]q in /proc/%[2]s/status", k.name, pid, want)
		}
	}
}
