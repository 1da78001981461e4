package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/phantomrouter/phantom-authz/envoy"
)

// library is the file of the Envoy module.
const library = "libphantom_authz.so"

// useModule parses the environment variable MODULE.
func useModule(text string) (bool, error) {
	switch text {
	case "", "0":
		return false, nil
	case "1":
		return true, nil
	}
	return false, fmt.Errorf("MODULE=%s is invalid: must be 1 for the Envoy module, or 0", text)
}

// findPrograms returns the folder of this program, which must also contain the others: authzd or the Envoy module.
func findPrograms(module bool) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	dir := filepath.Dir(self)
	programs := []struct{ name, target string }{{"keyd", "build"}, {"echo", "build"}, {"authzd", "build"}}
	if module {
		programs[2] = struct{ name, target string }{library, "module"}
	}
	for _, p := range programs {
		path := filepath.Join(dir, p.name)
		if _, statErr := os.Stat(path); statErr != nil {
			err = errors.Join(err, fmt.Errorf("%s is missing: run `make %s`", path, p.target))
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
