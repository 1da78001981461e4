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
)

func TestCommittedFileIsCurrent(t *testing.T) {
	want, err := os.ReadFile(target)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	got, err := render(text)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not generated from %s: run `go generate` in k8s/", target, source)
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
}
