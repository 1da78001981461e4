//go:build release

package repo

import (
	"debug/elf"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
)

const releaseVersion = "v9.8.7-test"

// makeRelease clones the repository's HEAD into a folder, and makes a release there with a separate cache of the compiler. It returns
// the checksums by file.
func makeRelease(t *testing.T, dir, cache, syft string) map[string]string {
	t.Helper()
	runIn(t, ".", cleanEnvironment(), "git", "clone", "-q", ".", dir)
	env := cleanEnvironment("GOCACHE="+cache, "STORAGE_DRIVER=vfs")
	runIn(t, dir, env, "make", "release", "VERSION="+releaseVersion, "SYFT="+syft)
	runIn(t, filepath.Join(dir, "dist"), env, "sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS")
	sums := map[string]string{}
	for line := range strings.Lines(read(t, filepath.Join(dir, "dist/SHA256SUMS"))) {
		if sum, name, ok := strings.Cut(strings.TrimSpace(line), "  "); ok {
			sums[name] = sum
		}
	}
	return sums
}

// TestReleaseIsReproducible: two clones in different folders, with nothing in common but the sources and the tools, make the same bytes.
func TestReleaseIsReproducible(t *testing.T) {
	top := t.TempDir()
	syft := filepath.Join(top, "syft") // built once, because it takes longer than the release
	runIn(t, ".", cleanEnvironment(), "go", "build", "-buildvcs=false", "-modfile=tools/release/go.mod", "-o", syft, "github.com/anchore/syft/cmd/syft")
	first := filepath.Join(top, "a")
	sums := makeRelease(t, first, filepath.Join(top, "cache"), syft)
	second := makeRelease(t, filepath.Join(top, "another folder with a longer name", "b"), filepath.Join(top, "second cache"), syft)
	if diff := cmp.Diff(sums, second); diff != "" {
		t.Errorf("the releases differ (-first +second):\n%s", diff)
	}
	want := []string{
		"authzd-linux-amd64", "authzd-linux-arm64", "keyctl-linux-amd64", "keyctl-linux-arm64", "keyd-linux-amd64", "keyd-linux-arm64",
		"libphantom_authz-linux-" + runtime.GOARCH + ".so", "phantom-authz.spdx.json",
	}
	if _, err := exec.LookPath("buildah"); err == nil {
		want = append(want, "IMAGES", "phantom-authz-linux-amd64.oci.tar", "phantom-authz-linux-arm64.oci.tar")
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(sums))); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	dist := filepath.Join(first, "dist")
	checkArchitectures(t, dist)
	checkVersions(t, dist)
	checkSBOM(t, filepath.Join(dist, "phantom-authz.spdx.json"))
}

func checkArchitectures(t *testing.T, dist string) {
	t.Helper()
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		for _, name := range []string{"authzd", "keyd", "keyctl"} {
			program, err := elf.Open(filepath.Join(dist, name+"-linux-"+arch))
			if err != nil {
				t.Fatal(err)
			}
			if program.Machine != machine || slices.ContainsFunc(program.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
				t.Errorf("%s for %s: %v, or it is not static", name, arch, program.Machine)
			}
			_ = program.Close()
		}
	}
}

// checkVersions: -version prints the stamped version. The programs have the paths of no machine.
func checkVersions(t *testing.T, dist string) {
	t.Helper()
	for _, name := range []string{"authzd", "keyd", "keyctl"} {
		out, err := exec.Command(filepath.Join(dist, name+"-linux-"+runtime.GOARCH), "-version").CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), name+" "+releaseVersion+" (") {
			t.Errorf("%s -version: %v %s", name, err, out)
		}
	}
	files, err := filepath.Glob(filepath.Join(dist, "*-linux-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), filepath.Dir(dist)+"/") {
			t.Errorf("%s has the folder of its build", file)
		}
	}
}

// checkSBOM: each module that the programs link is in it.
func checkSBOM(t *testing.T, file string) {
	t.Helper()
	var sbom struct {
		Packages []struct {
			Name        string `json:"name"`
			VersionInfo string `json:"versionInfo"`
		} `json:"packages"`
	}
	if err := json.Unmarshal([]byte(read(t, file)), &sbom); err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, p := range sbom.Packages {
		listed[p.Name+" "+p.VersionInfo] = true
	}
	modules, err := exec.Command("go", "list", "-deps", "-f", `{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}{{end}}{{end}}`, "./cmd/authzd", "./cmd/keyd", "./cmd/keyctl").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range slices.Compact(slices.Sorted(strings.Lines(string(modules)))) {
		if m = strings.TrimSpace(m); m != "" && !listed[m] {
			t.Errorf("the SBOM has no %s", m)
		}
	}
}
