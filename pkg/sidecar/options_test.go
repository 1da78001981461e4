package sidecar

import (
	"testing"
	"time"

	"github.com/phantomrouter/phantom-authz/pkg/config"
	"github.com/phantomrouter/phantom-authz/pkg/daemon"
	"github.com/phantomrouter/phantom-authz/pkg/sidecarapi"
)

func TestChangesAreRequiredByDefault(t *testing.T) {
	for changes, optional := range map[string]bool{"": false, config.ChangesRequired: false, config.ChangesOptional: true} {
		cfg := &config.Authzd{KeyAPI: config.KeyAPI{Changes: changes}}
		if got := cacheOptions(&daemon.Runtime{}, cfg).ChangesOptional; got != optional {
			t.Errorf("changes %q: optional is %t", changes, got)
		}
	}
}

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

// The key API receives max_stale in milliseconds. A longer one must not be used.
func TestMaxStaleIsWholeMilliseconds(t *testing.T) {
	for set, want := range map[time.Duration]time.Duration{
		2500 * time.Millisecond:                      2500 * time.Millisecond,
		1500*time.Millisecond + 999*time.Microsecond: 1500 * time.Millisecond,
		999 * time.Microsecond:                       0,
	} {
		if got := times(config.Cache{MaxStale: config.Duration{Duration: set}}).MaxStale; got != want {
			t.Errorf("%v is %v, want %v", set, got, want)
		}
	}
}
