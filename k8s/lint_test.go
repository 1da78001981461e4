package k8s

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// lintEnvoy runs authzd lint on the deployed envoy.yaml with the deployed authzd.yaml, and returns its findings.
func lintEnvoy(m *manifests) (findings []string) {
	bin, err := programs()
	if err != nil {
		return []string{err.Error()}
	}
	dir, err := os.MkdirTemp(scratch, "lint")
	if err != nil {
		return []string{err.Error()}
	}
	defer func() { _ = os.RemoveAll(dir) }()
	files := m.files()
	for _, name := range []string{"envoy.yaml", "authzd.yaml"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(files[name]), 0o600); err != nil {
			return []string{err.Error()}
		}
	}
	lint := exec.Command(filepath.Join(bin, "authzd"), "lint", "-o", "json", "-config", filepath.Join(dir, "authzd.yaml"), filepath.Join(dir, "envoy.yaml"))
	out, err := lint.Output()
	var report struct {
		Findings []struct{ Location, Rule, Found, Required string }
	}
	if json.Unmarshal(out, &report) != nil {
		return []string{"authzd lint: " + err.Error()}
	}
	for _, f := range report.Findings {
		findings = append(findings, f.Rule+" at "+f.Location+" is "+f.Found+": must be "+f.Required)
	}
	return findings
}

// TestDeployedEnvoyIsLinted: authzd lint finds nothing in what is deployed, and finds a mistake in it.
func TestDeployedEnvoyIsLinted(t *testing.T) {
	for name, folder := range map[string]string{"demo": demo(t), "module": moduleOverlay(t)} {
		m := load(t, folder)
		for _, found := range lintEnvoy(m) {
			t.Errorf("%s: %s", name, found)
		}
		for i, c := range m.configMaps {
			if text := c.Data["envoy.yaml"]; text != "" {
				m.configMaps[i].Data["envoy.yaml"] = strings.Replace(text, "allow_credentials: true", "allow_credentials: false", 1)
			}
		}
		if got := lintEnvoy(m); len(got) != 1 || !strings.HasPrefix(got[0], "cors-credentials at ") {
			t.Errorf("%s: a mistake is reported as %q", name, got)
		}
	}
}
