package main

import (
	"testing"

	"github.com/phantomrouter/phantom-authz/pkg/config"
	"github.com/phantomrouter/phantom-authz/pkg/daemon"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

// Only the configuration makes the change log optional: by default a 404 is an error.
func TestChangesAreRequiredByDefault(t *testing.T) {
	for changes, optional := range map[string]bool{"": false, config.ChangesRequired: false, config.ChangesOptional: true} {
		cfg := &config.Authzd{KeyAPI: config.KeyAPI{Changes: changes}}
		if got := cacheOptions(&daemon.Runtime{}, cfg).ChangesOptional; got != optional {
			t.Errorf("changes %q: optional is %t", changes, got)
		}
	}
}

// Each name is another, and has the length that the key API allows.
func TestSidecarNamesDiffer(t *testing.T) {
	names := make(map[string]bool)
	for range 1000 {
		name := sidecarName()
		if names[name] || name == "" || len(name) > sidecarapi.MaxSidecar {
			t.Fatalf("the name %q", name)
		}
		names[name] = true
	}
}
