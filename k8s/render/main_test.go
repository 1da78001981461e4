package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

const (
	source = "../../envoy/envoy.yaml"
	target = "../base/config/envoy.yaml"
)

func TestCommittedFileIsWhatIsRendered(t *testing.T) {
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
		t.Errorf("%s is not what %s makes: run `go generate` in k8s/", target, source)
	}
}

func TestRenderRefusesWhatItDoesNotKnow(t *testing.T) {
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{{"- name: owners ", "- name: others "}, {"address: echo,", "address: api,"}} {
		changed := strings.Replace(string(text), change[0], change[1], 1)
		if _, err := render([]byte(changed)); err == nil {
			t.Errorf("%q in place of %q was rendered", change[1], change[0])
		}
	}
}
