package repo

import (
	"bufio"
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/phantomrouter/phantom-authz/internal/testbed"
)

// smallDemo prints ready, and the signal that stopped it.
const smallDemo = `package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	fmt.Println("ready")
	fmt.Println(<-stop)
}
`

// smallClone writes this repository's Makefile and empty programs to dir, so that `make build` takes a second.
func smallClone(t *testing.T, dir string) {
	t.Helper()
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"Makefile": string(makefile), "go.mod": "module example.com/clone\n\ngo 1.26\n", ".gitignore": "/bin/\n"}
	files["cmd/demo/main.go"] = smallDemo
	files["cmd/module/main.go"] = "//go:build cgo\n\npackage main\n\nimport \"C\"\n\nfunc main() {}\n"
	for _, name := range []string{"cmd/authzd", "cmd/keyd", "cmd/keyctl", "envoy/echo"} {
		files[name+"/main.go"] = "package main\n\nfunc main() {}\n"
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// cleanEnvironment returns this process's environment without the settings of Go, git and make, plus the given ones.
func cleanEnvironment(settings ...string) []string {
	env := slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.ContainsFunc([]string{"GIT_", "MAKE", "MFLAGS", "GOFLAGS", "GOWORK", "GO111MODULE"}, func(prefix string) bool {
			return strings.HasPrefix(name, prefix)
		})
	})
	return append(append(env, "GOENV=off"), settings...)
}

func runIn(t *testing.T, dir string, env []string, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = dir, env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// checkPrograms reports programs that are missing or not static, and those that carry a commit although they should not,
// or the reverse.
func checkPrograms(t *testing.T, dir string, commit bool) {
	t.Helper()
	for _, name := range []string{"authzd", "keyd", "keyctl"} {
		path := filepath.Join(dir, "bin", name)
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		stamped := slices.ContainsFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == "vcs.revision" })
		if stamped != commit {
			t.Errorf("%s has a commit: %v, want %v", name, stamped, commit)
		}
		if program, err := elf.Open(path); err == nil { // other systems have another format
			if slices.ContainsFunc(program.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
				t.Errorf("%s is not static", name)
			}
			_ = program.Close()
		}
	}
}

func TestMakeBuildIgnoresSettingsOfOtherProjects(t *testing.T) {
	identity := []string{
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=x", "GIT_AUTHOR_EMAIL=x@example.com", "GIT_COMMITTER_NAME=x", "GIT_COMMITTER_EMAIL=x@example.com",
	}
	for _, c := range []struct {
		about    string
		env      []string
		argument string // of make
		noGit    bool
		workFile bool // go.work in the folder above
		commit   bool
	}{
		{about: "a plain clone", commit: true},
		{about: "not a clone", noGit: true},
		{about: "a clone of another user", env: []string{"GIT_TEST_ASSUME_DIFFERENT_OWNER=1"}},
		{about: "no git", env: []string{"PATH=" + onlyTools(t)}},
		{about: "below a go.work", workFile: true, commit: true},
		{about: "-mod=mod", env: []string{"GOFLAGS=-mod=mod"}, commit: true},
		{about: "-mod=vendor", env: []string{"GOFLAGS=-mod=vendor"}, commit: true},
		{about: "flags of a distribution", env: []string{"GOFLAGS=-buildmode=pie -trimpath -modcacherw '-ldflags=-linkmode=external'"}, commit: true},
		{about: "race detector", env: []string{"GOFLAGS=-race"}, commit: true},
		{about: "flags of the user stay", env: []string{"GOFLAGS=-buildvcs=false"}},
		{about: "flags as an argument of make", argument: "GOFLAGS=-mod=mod -buildvcs=false"},
		{about: "a flag that fails, and a clone of another user", argument: "GOFLAGS=-buildvcs=true", env: []string{"GIT_TEST_ASSUME_DIFFERENT_OWNER=1"}},
		{about: "modules off", env: []string{"GO111MODULE=off"}, commit: true},
		{about: "cgo on", env: []string{"CGO_ENABLED=1"}, commit: true},
	} {
		t.Run(c.about, func(t *testing.T) {
			top := t.TempDir()
			dir := filepath.Join(top, "a folder", strings.Repeat("with a long name ", 14))
			smallClone(t, dir)
			if !c.noGit {
				env := cleanEnvironment(identity...)
				runIn(t, dir, env, "git", "init", "-q")
				runIn(t, dir, env, "git", "add", ".")
				runIn(t, dir, env, "git", "commit", "-q", "-m", "all")
			}
			if c.workFile {
				if err := os.WriteFile(filepath.Join(top, "go.work"), []byte("go 1.26\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			args := []string{"build"}
			if c.argument != "" {
				args = append(args, c.argument)
			}
			runIn(t, dir, cleanEnvironment(append(identity, c.env...)...), "make", args...)
			checkPrograms(t, dir, c.commit)
		})
	}
}

// The compiler finds the profile of a program beside its main file. Every clone has its copies, so it stays small.
func TestProfileForTheCompilerIsSmall(t *testing.T) {
	const most = 200 << 10
	info, err := os.Stat("cmd/authzd/default.pgo")
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() == 0 || info.Size() > most {
		t.Errorf("%d bytes, want 1 to %d: run make pgo with a shorter duration", info.Size(), most)
	}
}

// TestMakeUpPassesSignalsOn: SIGTERM sent to make, and Ctrl-C, which goes to the whole process group, reach the demo, and
// make ends only after it. MODULE=1 builds the Envoy module before.
func TestMakeUpPassesSignalsOn(t *testing.T) {
	for _, c := range []struct {
		signal syscall.Signal
		group  bool
		module string
	}{{syscall.SIGTERM, false, ""}, {syscall.SIGINT, true, "1"}, {syscall.SIGINT, true, "0"}} {
		dir := t.TempDir()
		smallClone(t, dir)
		up := exec.CommandContext(t.Context(), "make", "up")
		up.Dir, up.Env, up.SysProcAttr = dir, cleanEnvironment("MODULE="+c.module), &syscall.SysProcAttr{Setpgid: true}
		out, err := up.StdoutPipe()
		if err == nil {
			err = up.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for scan := bufio.NewScanner(out); scan.Scan(); {
			lines = append(lines, scan.Text())
			if scan.Text() != "ready" {
				continue
			}
			if _, err := os.Stat(filepath.Join(dir, "bin/libphantom_authz.so")); (err == nil) != (c.module == "1") {
				t.Errorf("MODULE=%s: the module is built: %v", c.module, err == nil)
			}
			process := up.Process.Pid
			if c.group {
				process = -process
			}
			if err := syscall.Kill(process, c.signal); err != nil {
				t.Fatal(err)
			}
		}
		_ = up.Wait() // make's own status after a signal
		if !slices.Contains(lines, c.signal.String()) {
			t.Errorf("%v did not reach the demo: %q", c.signal, lines)
		}
	}
}

// TestModuleNeedsCompiler: without a C compiler make names it, and does not start the demo.
func TestModuleNeedsCompiler(t *testing.T) {
	dir := t.TempDir()
	smallClone(t, dir)
	for _, args := range [][]string{{"module"}, {"up", "MODULE=1"}} {
		cmd := exec.CommandContext(t.Context(), "make", args...)
		cmd.Dir, cmd.Env = dir, cleanEnvironment("PATH="+onlyTools(t))
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "needs a C compiler, and gcc is missing: install gcc") || strings.Contains(string(out), "ready") {
			t.Errorf("make %v: %v\n%s", args, err, out)
		}
	}
}

// TestModuleLoadsInImagesOfEnvoy: Envoy's images have Ubuntu 22.04 with glibc 2.35 and, distroless, Debian 12 with 2.36
// (distribution/docker/Dockerfile-envoy in Envoy's repository). The library must need no newer symbol and no other library.
func TestModuleLoadsInImagesOfEnvoy(t *testing.T) {
	dir := t.TempDir()
	if err := testbed.BuildModule(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	library, err := elf.Open(filepath.Join(dir, "libphantom_authz.so"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = library.Close() }()
	if needed, err := library.ImportedLibraries(); err != nil || !slices.Equal(needed, []string{"libc.so.6"}) {
		t.Errorf("needs %v: must be libc.so.6 alone: %v", needed, err)
	}
	symbols, err := library.ImportedSymbols()
	if err != nil {
		t.Fatal(err)
	}
	versions := 0
	for _, s := range symbols {
		var minor int
		if n, _ := fmt.Sscanf(s.Version, "GLIBC_2.%d", &minor); n == 1 {
			versions++
		}
		if minor > 35 {
			t.Errorf("%s needs %s: must be at most GLIBC_2.35", s.Name, s.Version)
		}
	}
	if versions == 0 {
		t.Error("no symbol has a version of glibc")
	}
}

// onlyTools is a PATH with what `make build` needs, and without git.
func onlyTools(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"go", "make", "sh", "mkdir"} {
		path, err := exec.LookPath(name)
		if err == nil && name == "go" {
			path, err = goTool()
		}
		if err == nil {
			err = os.Symlink(path, filepath.Join(dir, name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func goTool() (string, error) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOROOT: %w", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "bin", "go"), nil
}
