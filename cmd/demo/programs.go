package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/phantomrouter/phantom-authz/envoy"
)

// programs are the paths of what the demo runs.
type programs struct{ authzd, keyd, echo, envoy string }

// findPrograms finds this repository's own, which stand beside the demo.
func findPrograms() (programs, error) {
	self, err := os.Executable()
	if err != nil {
		return programs{}, err
	}
	dir := filepath.Dir(self)
	find := func(name string) string {
		path := filepath.Join(dir, name)
		if _, statErr := os.Stat(path); statErr != nil {
			err = errors.Join(err, fmt.Errorf("%s is missing: run `make build`", path))
		}
		return path
	}
	p := programs{authzd: find("authzd"), keyd: find("keyd"), echo: find("echo")}
	return p, err
}

// findEnvoy returns an Envoy whose process will be called envoy, whatever the
// user's own is called.
func findEnvoy(ctx context.Context, h *home, out *console) (string, error) {
	path, err := envoy.Find(ctx, envoy.Newest, out.Writer())
	if err != nil || filepath.Base(path) == "envoy" {
		return path, err
	}
	link := h.file("envoy")
	return link, os.Symlink(path, link)
}
