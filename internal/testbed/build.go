package testbed

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const repository = "github.com/phantomrouter/phantom-authz/"

// Build builds programs of this module, named by their folders, into one folder.
func Build(ctx context.Context, into string, programs ...string) error {
	args := []string{"-o", into + string(filepath.Separator)}
	for _, name := range programs {
		args = append(args, repository+name)
	}
	return goBuild(ctx, nil, args...)
}

// BuildModule builds libphantom_authz.so, the Envoy module, into a folder, as "make module" does. Without a C compiler it
// fails, and the error names the compiler.
func BuildModule(ctx context.Context, into string) error {
	return goBuild(ctx, []string{"CGO_ENABLED=1"},
		"-race=false", "-buildmode=c-shared",
		"-o", filepath.Join(into, "libphantom_authz.so"), repository+"cmd/module")
}

func goBuild(ctx context.Context, env []string, args ...string) error {
	args = append([]string{"build"}, args...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
