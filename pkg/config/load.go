package config

import "errors"

type settings interface{ setDefaults() }

func load[C any](path string) (*C, error) { return nil, errors.New("not yet: " + path) }

func peek[C any](string) (*C, error) {
	c := new(C)
	any(c).(settings).setDefaults()
	return c, nil
}

// Print writes the configuration with all its defaults as YAML that loads again to the same value. It names files and never holds what is in them.
func Print[C any](cfg *C) ([]byte, error) { return nil, errors.New("not yet") }

// NeedsRestart returns the full names of the fields, such as "cache.unknown", that differ between two configurations and that only a restart takes up.
func NeedsRestart[C any](running, loaded *C) []string { return nil }
