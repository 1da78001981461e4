package k8s

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// scratch is a temporary directory for the whole run.
var scratch string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "phantom-k8s-")
	if err != nil {
		panic(err)
	}
	scratch = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// programs builds the programs once.
var programs = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(scratch, "bin")
	build := exec.Command("go", "build", "-C", "..", "-o", dir+"/", "./cmd/authzd", "./cmd/keyd", "./cmd/keyctl")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	return dir, build.Run()
})

func program(t testing.TB, name string) string {
	t.Helper()
	dir, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// check validates the configuration with the program, which must print nothing, not even a warning.
func check(t *testing.T, name, config string) {
	t.Helper()
	if out, err := exec.Command(program(t, name), "-config", config, "-check").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%s -check: %v\n%s", name, err, out)
	}
}

func TestProgramsAcceptKubernetesConfiguration(t *testing.T) {
	for name, folder := range map[string]string{
		"demo": demo(t), "operators-network": overNetwork(t), "module": moduleOverlay(t), "postgres": overlay(t, onDatabase), "central": overlay(t, centralised),
	} {
		t.Run(name, func(t *testing.T) {
			m := load(t, folder)
			if len(m.secrets) == 0 {
				m.secrets = load(t, demo(t)).secrets
			}
			authzd := "gateway"
			if _, central := m.pod("authzd"); central {
				authzd = "authzd"
			}
			for _, c := range []struct{ program, pod string }{{"authzd", authzd}, {"keyd", "keyd"}} {
				check(t, c.program, m.configFile(t, m.mustPod(t, c.pod), c.program))
			}
		})
	}
}

// The tokens are those that the service tokens makes.
func TestProgramsAcceptComposeConfiguration(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"sidecar", "operator"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	tokens := map[string]string{}
	for range 2 { // the second run keeps the tokens of the first
		if out, err := exec.Command("sh", "../envoy/compose/tokens.sh", dir).CombinedOutput(); err != nil {
			t.Fatalf("tokens.sh: %v\n%s", err, out)
		}
		for _, name := range []string{"sidecar/key-api.token", "operator/operator.token"} {
			token, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil || len(token) < 32 || tokens[name] != "" && tokens[name] != string(token) {
				t.Errorf("%s: %d characters, must be at least 32 and those of the first run: %v", name, len(token), err)
			}
			tokens[name] = string(token)
		}
	}
	for _, name := range []string{"authzd", "keyd"} {
		text, err := os.ReadFile("../envoy/config/" + name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, name+".yaml")
		write(t, file, text)
		check(t, name, file)
		if strings.Contains(string(text), "0.0.0.0") {
			t.Errorf("%s.yaml: addresses must be on [::], which is IPv4 and IPv6", name)
		}
	}
}

// envoyBinary returns the path of the pinned Envoy. A program of the product's module finds it, because this module must not
// depend on that module's requirements.
var envoyBinary = sync.OnceValues(func() (string, error) {
	const finder = `package main

import (
	"context"
	"fmt"
	"os"

	"github.com/phantomrouter/phantom-authz/envoy"
)

func main() {
	path, err := envoy.Find(context.Background(), envoy.Newest, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Print(path)
}
`
	file := filepath.Join(scratch, "main.go")
	if err := os.WriteFile(file, []byte(finder), 0o600); err != nil {
		return "", err
	}
	find := exec.Command("go", "run", "-C", "..", file)
	find.Stderr = os.Stderr
	path, err := find.Output()
	return string(path), err
})

// validator validates a configuration of Envoy with the files of the gateway's Pod.
type validator struct {
	envoy   string
	args    []string
	text    string            // envoy.yaml with the folders of this machine
	folders map[string]string // of the volumes
}

func newValidator(t *testing.T, m *manifests) validator {
	t.Helper()
	envoy, err := envoyBinary()
	if err != nil {
		t.Fatalf("find Envoy: %v", err)
	}
	p := m.pods()[slices.IndexFunc(m.pods(), func(p pod) bool { return p.container("envoy").Name != "" })]
	folders := m.volumes(t, p)
	move := strings.NewReplacer("/etc/envoy/", folders["envoy"]+"/", "/etc/phantom/tls", folders["envoy-tls"], "/etc/phantom-authz", folders["authzd"])
	return validator{envoy: envoy, args: p.container("envoy").Args, text: move.Replace(m.files()["envoy.yaml"]), folders: folders}
}

// run validates the text with one replacement.
func (v validator) run(t *testing.T, from, to string) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "envoy.yaml")
	write(t, file, []byte(strings.Replace(v.text, from, to, 1)))
	cmd := exec.Command(v.envoy, append([]string{"--mode", "validate", "--log-level", "warning", "-c", file}, v.args...)...)
	cmd.Env = append(os.Environ(), "ENVOY_DYNAMIC_MODULES_SEARCH_PATH="+scratch)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// The files of the application's Pod, with the demo's Secrets.
func TestProgramsAcceptConfigurationOfApplication(t *testing.T) {
	m := load(t, "overlays/sidecar")
	m.secrets = load(t, demo(t)).secrets
	check(t, "authzd", m.configFile(t, m.mustPod(t, "shop"), "authzd"))
	v := newValidator(t, m)
	if out, err := v.run(t, "", ""); err != nil {
		t.Errorf("envoy --mode validate: %v\n%s", err, out)
	}
	if _, err := v.run(t, "cluster: upstream", "cluster: owners"); err == nil {
		t.Error("a route to a missing cluster was accepted")
	}
}

func TestEnvoyAcceptsConfigurationOfCentral(t *testing.T) {
	v := newValidator(t, load(t, overlay(t, centralised)))
	if out, err := v.run(t, "", ""); err != nil {
		t.Errorf("envoy --mode validate: %v\n%s", err, out)
	}
	if _, err := v.run(t, "/sds-authzd-ca.yaml", "/nowhere.yaml"); err == nil {
		t.Error("a missing file was accepted")
	}
}

func TestEnvoyAcceptsKubernetesConfiguration(t *testing.T) {
	v := newValidator(t, load(t, demo(t)))
	if out, err := v.run(t, "", ""); err != nil {
		t.Errorf("envoy --mode validate: %v\n%s", err, out)
	}
	for _, mistake := range [][2]string{
		{"sni: keyd", "server_name: keyd"},
		{v.folders["envoy"] + "/sds-ca.yaml", "/nowhere/sds-ca.yaml"},
		{"tls_minimum_protocol_version: TLSv1_3,", "tls_minimum_protocol_version: TLSv2,"},
	} {
		if _, err := v.run(t, mistake[0], mistake[1]); err == nil {
			t.Errorf("%s was accepted", mistake[1])
		}
	}
}

// The module validates its configuration, too. For a moment it runs, with its admin listener.
func TestEnvoyAcceptsConfigurationOfModule(t *testing.T) {
	build := exec.Command("go", "build", "-C", "..", "-buildmode=c-shared",
		"-o", filepath.Join(scratch, "libphantom_authz.so"), "./cmd/module")
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the module: %v\n%s", err, out)
	}
	v := newValidator(t, load(t, moduleOverlay(t)))
	file := filepath.Join(v.folders["authzd"], "authzd.yaml")
	replace(t, file, "tcp://[::]:9192", "tcp://127.0.0.1:0")
	if out, err := v.run(t, "", ""); err != nil {
		t.Errorf("envoy --mode validate: %v\n%s", err, out)
	}
	for _, mistake := range [][2]string{
		{"scope: chat:companion", "scopes: chat:companion"},
		{"principal: session", "principal: owner"},
		{"config_file:", "config:"},
		{"do_not_close: true\n                                name: phantom_authz", "name: phantom"},
		{"filter_name: phantom_authz", "filter_name: phantom"},
	} {
		if out, err := v.run(t, mistake[0], mistake[1]); err == nil {
			t.Errorf("%s was accepted:\n%s", mistake[1], out)
		}
	}
	replace(t, file, "token_file", "token")
	if out, err := v.run(t, "", ""); err == nil || !strings.Contains(out, "unknown field key_api.token: did you mean key_api.token_file?") {
		t.Errorf("a mistake in the module's file: %v\n%s", err, out)
	}
}
