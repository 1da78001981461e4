//go:build openapi

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Schemathesis generates valid and invalid requests, and sequences of them, from the OpenAPI document, and compares the answers
// with the document.
func TestSchemathesis(t *testing.T) {
	program := schemathesis(t)
	rules, err := filepath.Abs("testdata/schemathesis")
	if err != nil {
		t.Fatal(err)
	}
	for _, side := range []struct {
		name    string
		headers []string
	}{
		{"operators", []string{"Authorization: Bearer " + aliceToken}},
		{"owners", []string{"x-phantom-account-id: a", "x-phantom-principal: session"}},
		{"sidecars", []string{"Authorization: Bearer " + sidecarToken}},
	} {
		t.Run(side.name, func(t *testing.T) {
			t.Parallel()
			p := launch(t, openSides(t))
			p.account("a")
			url := "http://" + p.Addresses["listen."+side.name]
			args := []string{
				"--config-file", filepath.Join(rules, "schemathesis.toml"), "run", url + "/openapi.yaml", "--url", url,
				"--include-tag", side.name, "--max-examples", "10", "--seed", "1", "--continue-on-failure", "--no-color",
				"--generation-database", "none", "--request-timeout", "20",
			}
			for _, h := range side.headers {
				args = append(args, "--header", h)
			}
			cmd := exec.CommandContext(t.Context(), program, args...)
			cmd.Dir = t.TempDir()
			cmd.Env = append(os.Environ(), "PYTHONPATH="+rules, "PYTHONDONTWRITEBYTECODE=1", "SCHEMATHESIS_HOOKS=rules")
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "passed") {
				t.Errorf("%v\n%s", err, out)
			}
			p.stop(syscall.SIGTERM)
		})
	}
}

// openSides returns a configuration with all sides on TCP, a short lease, and a scope that owners grant.
func openSides(t *testing.T) string {
	t.Helper()
	path := configure(t, withRead)
	replaceIn(t, path, "lease: 15s", "lease: 1s", "longest_max_stale: 1h", "longest_max_stale: 168h",
		"owners: unix://"+filepath.Dir(path)+"/owners.sock", "owners: tcp://127.0.0.1:0")
	return path
}

// schemathesis returns the path of the program. The first call installs it in .venv of the clone.
func schemathesis(t *testing.T) string {
	t.Helper()
	venv, err := filepath.Abs("../../.venv/schemathesis")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(venv, "bin", "schemathesis")
	pins, err := os.ReadFile("testdata/schemathesis/requirements.txt")
	if err != nil {
		t.Fatal(err)
	}
	// The pins are written last: a venv without them, or with others, is replaced.
	mark := filepath.Join(venv, "pins.txt")
	if had, err := os.ReadFile(mark); err == nil && string(had) == string(pins) {
		return program
	}
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Fatal("missing python3, which schemathesis needs")
	}
	for _, args := range [][]string{
		{python, "-m", "venv", "--clear", venv},
		{
			filepath.Join(venv, "bin", "python3"), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet",
			"--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", "testdata/schemathesis/requirements.txt",
		},
	} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatal(errors.Join(fmt.Errorf("install schemathesis: %w", err), errors.New(string(out))))
		}
	}
	if err := os.WriteFile(mark, pins, 0o600); err != nil {
		t.Fatal(err)
	}
	return program
}
