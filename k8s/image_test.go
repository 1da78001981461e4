//go:build image

package k8s

import (
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// tools are the programs that these tests run, each with its Debian package.
var tools = map[string]string{
	"buildah": "buildah", "runc": "runc", "busybox": "busybox-static", "ip": "iproute2", "curl": "curl", "gcc": "gcc libc6-dev",
}

// installed installs missing tools.
func installed(t testing.TB) {
	t.Helper()
	for tool, debian := range tools {
		if _, err := exec.LookPath(tool); err == nil {
			continue
		}
		install := append([]string{"install", "-y", "--no-install-recommends"}, strings.Fields(debian)...)
		if out, err := exec.Command("apt-get", install...).CombinedOutput(); err != nil {
			t.Fatalf("missing %s: apt-get install %s: %v\n%s", tool, debian, err, out)
		}
	}
}

const (
	goImage = "localhost/phantom-authz-golang:test"
	image   = "localhost/phantom-authz:test"
)

// base is a script that makes GO_IMAGE from this machine's Go, a shell and CA certificates. The C compiler of this machine is
// mounted during a build.
const base = `set -eu
c=$(buildah from scratch)
m=$(buildah mount "$c")
mkdir -p "$m/bin" "$m/tmp" "$m/root" "$m/etc/ssl/certs" "$m/usr/local/bin"
cp "$(command -v busybox)" "$m/bin/busybox"
for name in sh mkdir chown cp ln; do ln -s busybox "$m/bin/$name"; done
ln -s usr/lib "$m/lib"
ln -s usr/lib64 "$m/lib64"
cp -rL "$(go env GOROOT)" "$m/usr/local/go"
cp /etc/ssl/certs/ca-certificates.crt "$m/etc/ssl/certs/"
buildah config --env PATH=/usr/local/go/bin:/usr/local/bin:/bin:/usr/bin "$c"
buildah umount "$c" >/dev/null
buildah commit -q --rm "$c" "$1"
`

// build builds and tags a target of the Dockerfile without network access.
func build(t testing.TB, target, tag string, options ...string) {
	t.Helper()
	modules := command(t, "go", "env", "GOMODCACHE") + "/cache/download"
	defer syscall.Umask(syscall.Umask(0o077)) // the strictest umask of a build machine
	args := append([]string{
		"bud", "--isolation", "chroot", "--pull-never", "--format", "docker", "--timestamp", "0", "--layers", "--target", target, "-t", tag,
		"--build-arg", "GO_IMAGE=" + goImage, "--build-arg", "ENVOY_IMAGE=" + goImage, "--build-arg", "GOPROXY=file:///goproxy,direct", "--volume", modules + ":/goproxy:ro",
	}, options...)
	for _, dir := range compiler {
		args = append(args, "--volume", dir+":"+dir+":ro")
	}
	command(t, "buildah", append(args, source)...)
}

// compiler are the folders of this machine with gcc, its libraries and headers. Debian links /lib and /lib64 to them.
var compiler = []string{"/usr/bin", "/usr/lib", "/usr/lib64", "/usr/include"}

var (
	once   sync.Once
	source string // a copy of the build context, so that all images have the same source
)

// copySource copies the build context with the modes of a clone made with umask 077.
func copySource(t testing.TB) {
	t.Helper()
	source = filepath.Join(scratch, "source")
	for _, dir := range []string{"cmd", "pkg", "envoy"} {
		if err := os.CopyFS(filepath.Join(source, dir), os.DirFS("../"+dir)); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"go.mod", "go.sum", "Dockerfile", ".dockerignore"} {
		text, err := os.ReadFile("../" + file)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(source, file), text)
	}
	command(t, "chmod", "-R", "go=", source)
}

// rootfs returns the root of the image with all programs.
func rootfs(t testing.TB) string {
	t.Helper()
	installed(t)
	once.Do(func() {
		copySource(t)
		command(t, "go", "-C", "..", "mod", "download") // the module proxy of the build
		command(t, "sh", "-c", base, "base", goImage)
		build(t, "all", image)
	})
	return mounted(t, image)
}

// rootOf returns the root of a target of the Dockerfile. It needs a call of rootfs before.
func rootOf(t testing.TB, target string) string {
	t.Helper()
	build(t, target, image+"-"+target)
	return mounted(t, image+"-"+target)
}

func mounted(t testing.TB, tag string) string {
	t.Helper()
	working := command(t, "buildah", "from", "--pull-never", tag)
	t.Cleanup(func() { command(t, "buildah", "rm", working) })
	return command(t, "buildah", "mount", working)
}

func TestImageContainsOnlyPrograms(t *testing.T) {
	root := rootfs(t)
	var files, writable []string
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, root)
		if !entry.IsDir() {
			files = append(files, name)
			static(t, path)
		}
		if mode := info.Mode().Perm(); mode&0o044 != 0o044 || entry.IsDir() && mode&0o011 != 0o011 {
			t.Errorf("%s has mode %v: must be readable by user 65532", name, mode)
		}
		if owner := info.Sys().(*syscall.Stat_t).Uid; owner != 0 {
			writable = append(writable, fmt.Sprintf("%s of %d", name, owner))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"/bin/authzd", "/bin/echo", "/bin/keyctl", "/bin/keyd"}; !slices.Equal(files, want) {
		t.Errorf("files %v, want %v", files, want)
	}
	if want := []string{"/etc/phantom/operator of 65532", "/etc/phantom/sidecar of 65532", "/run/phantom of 65532", "/var/lib/phantom of 65532"}; !slices.Equal(writable, want) {
		t.Errorf("not owned by root: %v, want %v", writable, want)
	}
}

func static(t *testing.T, path string) {
	t.Helper()
	program, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = program.Close() }()
	if slices.ContainsFunc(program.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Errorf("%s is not static", path)
	}
}

func TestImageConfiguration(t *testing.T) {
	rootfs(t)
	for target, health := range map[string]string{"authzd": "/bin/authzd", "keyd": "/bin/keyd"} {
		tag := image + "-" + target
		build(t, target, tag)
		config := configOf(t, tag)
		if config.User != "65532:65532" {
			t.Errorf("%s: user %v", target, config.User)
		}
		if test := config.Healthcheck.Test; len(test) < 2 || test[0] != "CMD" || test[1] != health {
			t.Errorf("%s: health check %v", target, test)
		}
	}
}

// imageConfig is the part of an image's configuration that the tests check.
type imageConfig struct {
	User, Shell any
	Env         []string
	Healthcheck struct{ Test []string }
}

func configOf(t testing.TB, tag string) imageConfig {
	t.Helper()
	var inspected struct {
		Docker struct {
			Config imageConfig `json:"config"`
		}
	}
	if err := json.Unmarshal([]byte(command(t, "buildah", "inspect", "--type", "image", tag)), &inspected); err != nil {
		t.Fatal(err)
	}
	return inspected.Docker.Config
}

// moduleEnv returns the variables of a target's image that concern Envoy's modules.
func moduleEnv(t testing.TB, target string) []string {
	t.Helper()
	return slices.DeleteFunc(configOf(t, image+"-"+target).Env, func(variable string) bool {
		return !strings.HasPrefix(variable, "ENVOY_DYNAMIC_MODULES_")
	})
}

// The target module has the library alone, which `docker build --output` copies, and envoy-module has it where Envoy looks for it.
func TestModuleImages(t *testing.T) {
	_ = rootfs(t) // rootOf needs it
	files, err := os.ReadDir(rootOf(t, "module"))
	if err != nil || len(files) != 1 || files[0].Name() != "libphantom_authz.so" {
		t.Fatalf("the target module has %v: must have libphantom_authz.so alone: %v", files, err)
	}
	root := rootOf(t, "envoy-module")
	_, folder, _ := strings.Cut(strings.Join(moduleEnv(t, "envoy-module"), " "), "ENVOY_DYNAMIC_MODULES_SEARCH_PATH=")
	path := filepath.Join(root, folder, "libphantom_authz.so")
	info, err := os.Stat(path)
	if err != nil || folder == "" || info.Mode().Perm() != 0o555 {
		t.Fatalf("no library that all users can read in %q: %v, %v", folder, info, err)
	}
	library, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = library.Close() }()
	symbols, err := library.DynamicSymbols()
	if err != nil || !slices.ContainsFunc(symbols, func(s elf.Symbol) bool {
		return s.Name == "envoy_dynamic_module_on_program_init" && s.Section != elf.SHN_UNDEF
	}) {
		t.Errorf("the library is not a module of Envoy: %v", err)
	}
}

// Two builds of the same source have the same layers. The second build uses no cache. (Docker's image format also contains the
// names of the build's containers.)
func TestImageIsReproducible(t *testing.T) {
	rootfs(t)
	layers := func(tag string) string {
		return command(t, "buildah", "inspect", "--type", "image", "--format", "{{.OCIv1.RootFS.DiffIDs}}", tag)
	}
	for _, target := range []string{"all", "module"} {
		build(t, target, image+"-"+target)
		build(t, target, image+"-again", "--no-cache")
		if first, second := layers(image+"-"+target), layers(image+"-again"); first != second || !strings.Contains(first, "sha256:") {
			t.Errorf("%s: layers %s and %s", target, first, second)
		}
	}
}
