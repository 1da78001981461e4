package main

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"
)

const (
	source = "../../envoy/envoy.yaml"
	target = "../base/config/envoy.yaml"
	module = "../components/module/envoy.yaml"
	remote = "../components/central/envoy.yaml"
	beside = "../overlays/sidecar/envoy.yaml"
)

func TestCommittedFilesAreCurrent(t *testing.T) {
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	base, err := render(text)
	if err != nil {
		t.Fatal(err)
	}
	withModule, err := renderModule(target)
	if err != nil {
		t.Fatal(err)
	}
	central, err := renderCentral(base)
	if err != nil {
		t.Fatal(err)
	}
	sidecar, err := renderSidecar(base)
	if err != nil {
		t.Fatal(err)
	}
	for file, got := range map[string][]byte{target: base, module: withModule, remote: central, beside: sidecar} {
		if want, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not generated from %s: run `go generate` in k8s/ (%v)", file, source, err)
		}
	}
}

func TestRenderKeepsOtherFieldsOfOwnersCluster(t *testing.T) {
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	const limits = "    circuit_breakers: *wide   # added\n"
	added := regexp.MustCompile(`(?m)^  - name: owners\b.*\n`).ReplaceAllString(string(text), "${0}"+limits)
	got, err := render([]byte(added))
	if err != nil || strings.Count(string(got), limits) != 1 || !strings.Contains(string(got), "address: keyd, port_value: 8083") {
		t.Errorf("%v:\n%s", err, got)
	}
}

func TestRenderRejectsUnexpectedSource(t *testing.T) {
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{{"- name: owners ", "- name: others "}, {"address: echo,", "address: api,"}, {"owners.sock", "own.sock"}} {
		changed := strings.Replace(string(text), change[0], change[1], 1)
		if _, err := render([]byte(changed)); err == nil {
			t.Errorf("%q instead of %q was rendered", change[1], change[0])
		}
	}
	for _, change := range [][2]string{{"- name: authz ", "- name: other "}, {"authz.sock", "other.sock"}, {"connect_timeout: 0.1s", "connect_timeout: 1s"}} {
		changed := strings.Replace(string(text), change[0], change[1], 1)
		if _, err := renderCentral([]byte(changed)); err == nil {
			t.Errorf("%q instead of %q was rendered for central authzd", change[1], change[0])
		}
	}
}
