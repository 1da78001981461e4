package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v4"
)

const (
	// maxFile is the size of a configuration file in bytes. Larger delays each look at a changed
	// file; smaller rejects long endpoint tables.
	maxFile = 1 << 20
	// maxValues is the number of values in a file, where an alias counts as all that it refers to.
	// Larger lets nested aliases use more memory and time; smaller rejects long endpoint tables.
	maxValues = 200_000
)

// program is a whole configuration, Authzd or Keyd.
type program[C any] interface {
	*C
	setDefaults()
	validate(*report)
}

// load reads the file and returns all its mistakes as one error.
func load[C any, P program[C]](path string, mode checkMode) (P, error) {
	cfg, r, err := read[C, P](path, mode)
	if err != nil {
		return nil, err
	}
	cfg.validate(r)
	if err := r.err(); err != nil {
		return nil, err
	}
	return cfg, nil
}

// loadListen returns what can be read of a file; the rest has its defaults. The error is about
// the file as a whole or about listen.
func loadListen[C any, P program[C]](path string) (P, error) {
	cfg, r, err := read[C, P](path, noFiles)
	if err == nil {
		err = r.section("listen").err()
	}
	return cfg, err
}

// read decodes the file into a configuration that holds the defaults. The error means that there
// is nothing to decode; mistakes in the file are in the report.
func read[C any, P program[C]](path string, mode checkMode) (P, *report, error) {
	cfg := P(new(C))
	cfg.setDefaults()
	r := newReport(cmp.Or(path, "no -config"), mode)
	root := &yaml.Node{Kind: yaml.MappingNode}
	if path != "" {
		data, err := readFile(path)
		if err != nil {
			return cfg, r, err
		}
		if root, err = parse(data); err != nil {
			return cfg, r, fmt.Errorf("%s:%w", path, err)
		}
	}
	return cfg, r, r.decode(root, cfg, filepath.Dir(path))
}

// decode decodes a document into a struct that holds the defaults. Relative file names in it are
// relative to the folder. The error means that the document has too many values.
func (r *report) decode(root *yaml.Node, into any, folder string) error {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return err
	}
	v := reflect.ValueOf(into).Elem()
	d := decoder{report: r, folder: folder, schema: v.Type()}
	d.decode(root, v, "", "")
	if d.values > maxValues {
		return fmt.Errorf("%s is invalid: must have at most %d values, where an alias counts as all that it refers to", r.label, maxValues)
	}
	return nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, pathFirst(err)
	}
	defer func() { _ = f.Close() }() // read only
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, pathFirst(err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s is invalid: must have at most %d bytes", path, maxFile)
	}
	return data, nil
}

// pathFirst returns an error of package os as "PATH: OPERATION: CAUSE".
func pathFirst(err error) error {
	if pathErr, ok := errors.AsType[*os.PathError](err); ok {
		return fmt.Errorf("%s: %s: %w", pathErr.Path, pathErr.Op, pathErr.Err)
	}
	return err
}

// parse returns the root of the only document in data, an empty mapping if there is none. The
// error begins with the position.
func parse(data []byte) (*yaml.Node, error) {
	loader, err := yaml.NewLoader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	var document, second yaml.Node
	err = loader.Load(&document)
	if err == nil {
		err = loader.Load(&second)
	}
	switch {
	case err == nil:
		return nil, fmt.Errorf("%d:%d: invalid YAML: must be one document", second.Line, second.Column)
	case !errors.Is(err, io.EOF):
		return nil, syntaxError(err)
	case len(document.Content) == 0, isNull(document.Content[0]): // comments only
		return &yaml.Node{Kind: yaml.MappingNode}, nil
	}
	return document.Content[0], nil
}

// Print returns the configuration with all defaults as YAML that loads to the same value. It names
// files and never holds their content.
func Print[C any](cfg *C) ([]byte, error) { return yaml.Dump(cfg) }

// syntaxError returns an error of the YAML parser as "LINE:COLUMN: invalid YAML: CAUSE".
func syntaxError(err error) error {
	position, cause := "", err.Error()
	if e, ok := errors.AsType[*yaml.LoadError](err); ok {
		if e.Mark.Line > 0 {
			position = fmt.Sprintf("%d:%d:", e.Mark.Line, e.Mark.Column)
		}
		cause = strings.TrimPrefix(e.ContextMsg+": "+e.Message, ": ")
	}
	if anchor := "unknown anchor"; strings.HasPrefix(cause, anchor) {
		cause = anchor // without its name: a secret in the file may begin with *
	}
	return fmt.Errorf("%s invalid YAML: %s", position, cause)
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }
