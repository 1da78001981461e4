package schema

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	envoygateway "github.com/envoyproxy/gateway"
	_ "istio.io/api/label" // keeps the module, whose CRDs are not in a package, in go.mod
)

// Meshes returns the kinds of Istio, Envoy Gateway and the Gateway API, in the versions that go.mod requires.
var Meshes = sync.OnceValues(func() (*Set, error) {
	istio, err := moduleFile("istio.io/api", "kubernetes/customresourcedefinitions.gen.yaml")
	if err != nil {
		return nil, err
	}
	return New(istio, envoygateway.GatewayCRDs)
})

// moduleFile returns a file of a module that go.mod requires. It downloads the module if it is not in the module cache.
func moduleFile(module, name string) ([]byte, error) {
	out, err := exec.Command("go", "mod", "download", "-json", module).Output()
	if err != nil {
		if exit := new(exec.ExitError); errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s%s", err, out, exit.Stderr)
		}
		return nil, fmt.Errorf("download %s: %w", module, err)
	}
	var downloaded struct{ Dir string }
	if err := json.Unmarshal(out, &downloaded); err != nil {
		return nil, fmt.Errorf("download %s: %w", module, err)
	}
	return os.ReadFile(filepath.Join(downloaded.Dir, name))
}
