package schema

import (
	"bytes"
	"fmt"
	"os/exec"
	"sync"

	_ "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1" // keeps the module in go.mod
)

// Monitoring returns the kinds of the Prometheus operator.
var Monitoring = sync.OnceValues(func() (*Set, error) {
	text, err := MonitoringCRDs()
	if err != nil {
		return nil, err
	}
	return New(text)
})

// MonitoringCRDs returns the CRDs of Monitoring in YAML. They are made from the operator's Go types by controller-gen, as its own are,
// because no module contains the files.
func MonitoringCRDs() ([]byte, error) {
	const types = "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	generate := exec.Command("go", "tool", "controller-gen", "crd:crdVersions=v1", "paths="+types, "output:crd:stdout")
	var problems bytes.Buffer
	generate.Stderr = &problems
	crds, err := generate.Output()
	if err != nil {
		return nil, fmt.Errorf("controller-gen: %w\n%s", err, problems.String())
	}
	return crds, nil
}
