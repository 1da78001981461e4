// Package config loads the configuration files of authzd and keyd: Authzd and
// Keyd are the documentation (meaning, unit, default, bounds), their loaders fill
// in the defaults and refuse whatever is unknown, repeated, misspelt, of the wrong
// type, out of bounds or at odds with another field. All mistakes of a file are
// told at once, one line each:
//
//	FILE:LINE: field: found …, allowed …
//
// A file passes through three steps: decode.go turns YAML nodes into the structs
// by their tags, the validate methods of both programs look at fields together,
// and files.go opens the files that are named, so that a program never starts
// with half of what it needs. Print writes the effective configuration, Reference
// the table of fields for the README, NeedsRestart what a reload cannot take up.
//
// The tags: yaml is the field's name; required says that there is no default;
// range bounds durations and numbers, both ends allowed; oneof lists the words;
// file says what a named file holds (secret, cert, key, ca, or token: a secret that
// the program accepts); restart marks what only a restart takes up.
package config
