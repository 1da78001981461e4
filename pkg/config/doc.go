// Package config loads the configuration files of authzd and keyd. The structs Authzd and Keyd
// document every field: meaning, unit, default, bounds. A file is strict YAML: unknown, repeated,
// mistyped, out-of-bounds and contradictory fields are errors. All mistakes of a file are reported
// together, one line each:
//
//	FILE:LINE:COLUMN: FIELD is invalid: must be ALLOWED
//
// Loading has three steps. parse reads the YAML nodes. The decoder fills the structs, checks the
// tags, and opens the named files, so that no program starts with a secret or certificate that it
// cannot use. The validate methods check what the tags cannot express.
//
// Print writes the effective configuration, Reference the table of fields for the documentation,
// Schema a JSON Schema for editors. NeedsRestart names the changed fields that a reload ignores.
//
// Struct tags: yaml is the field's name; required means that there is no default; range bounds
// durations and numbers, both ends included; oneof lists the accepted strings; empty accepts the
// empty string; file says what a named file holds (secret, cert, key, ca, or token: a secret that
// the program accepts); restart means that a reload ignores the field.
package config
