//go:build mesh

package mesh

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	istio        = "istio.io/istio"
	istioVersion = "v0.0.0-20260827124520-eed52ebb66ad" // Istio's releases are not versions of Go modules; this is 1.31's branch
	gateway      = "github.com/envoyproxy/gateway"
)

// gatewayVersion returns the version of Envoy Gateway whose CRDs the tests use.
func gatewayVersion(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", gateway).Output()
	if err != nil {
		t.Fatalf("version of %s: %v", gateway, err)
	}
	return strings.TrimSpace(string(out))
}

// build compiles a package, or the file of an absolute path, in a module with the requirements of that module. It returns the
// program, which stays in the user's cache directory.
func build(t *testing.T, module, version, pkg string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	name := strings.TrimSuffix(filepath.Base(pkg), ".go")
	program := filepath.Join(cache, "phantom-authz", filepath.Base(module)+"-"+version, name)
	if _, err := os.Stat(program); err == nil && !filepath.IsAbs(pkg) {
		return program
	}
	t.Logf("compiling %s of %s@%s", pkg, module, version)
	out, err := exec.Command("go", "mod", "download", "-json", module+"@"+version).Output()
	if err != nil {
		t.Fatalf("download %s@%s: %v\n%s", module, version, err, out)
	}
	var downloaded struct{ Dir string }
	if err := json.Unmarshal(out, &downloaded); err != nil {
		t.Fatal(err)
	}
	compile := exec.Command("go", "build", "-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-o", program+".new", pkg)
	compile.Dir = downloaded.Dir
	compile.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0")
	if out, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("compile %s: %v\n%s", pkg, err, out)
	}
	if err := os.Rename(program+".new", program); err != nil {
		t.Fatal(err)
	}
	return program
}

// run runs a program and returns its standard output.
func run(t *testing.T, program string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(program, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", filepath.Base(program), err, fmt.Sprint(stderr.String(), string(out)))
	}
	return out
}
