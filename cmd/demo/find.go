package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/phantomrouter/phantom-authz/envoy"
)

// findPrograms returns the folder of this program, which must also contain the others.
func findPrograms() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	dir := filepath.Dir(self)
	for _, name := range []string{"authzd", "keyd", "echo"} {
		path := filepath.Join(dir, name)
		if _, statErr := os.Stat(path); statErr != nil {
			err = errors.Join(err, fmt.Errorf("%s is missing: run `make build`", path))
		}
	}
	return dir, err
}

// findEnvoy returns the path of an Envoy that is named envoy, as its process will be.
func findEnvoy(ctx context.Context, work *workdir, out *console) (string, error) {
	path, err := envoy.Find(ctx, envoy.Newest, out.Writer())
	if err != nil || filepath.Base(path) == "envoy" {
		return path, err
	}
	link := work.file("envoy")
	return link, os.Symlink(path, link)
}
