package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds a configuration file, in bytes: far more than anybody writes, and
// little enough to be read at once.
const maxFile = 1 << 20

// program is a whole configuration, Authzd or Keyd.
type program[C any] interface {
	*C
	setDefaults()
	validate(*report)
}

// missingFiles says what a file that the configuration names and that does not exist is.
type missingFiles bool

const (
	mistaken missingFiles = false
	accepted missingFiles = true
)

func load[C any, P program[C]](path string, missing missingFiles) (P, error) {
	cfg := P(new(C))
	cfg.setDefaults()
	r, err := readInto(path, reflect.ValueOf(cfg).Elem())
	if err != nil {
		return nil, err
	}
	r.missing(reflect.ValueOf(cfg).Elem(), "")
	cfg.validate(r)
	r.missingFiles = missing
	r.files(reflect.ValueOf(cfg).Elem())
	if err := r.err(); err != nil {
		return nil, err
	}
	return cfg, nil
}

// peek returns whatever can be read of a file; the rest has its defaults. Its
// error is about the file as a whole or about listen.
func peek[C any, P program[C]](path string) (P, error) {
	cfg := P(new(C))
	cfg.setDefaults()
	r, err := readInto(path, reflect.ValueOf(cfg).Elem())
	if err != nil {
		return cfg, err
	}
	return cfg, r.only("listen").err()
}

// readInto decodes the file into a struct that holds the defaults. Its error says
// that there is nothing to decode; mistakes in the file are in the report.
func readInto(path string, into reflect.Value) (*report, error) {
	r := &report{label: "no -config", lines: map[string]int{}}
	if path == "" {
		return r, nil
	}
	r.label = path
	folder, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	data, err := readFile(path, maxFile)
	if err != nil {
		return nil, fmt.Errorf("%s %w", path, err)
	}
	root, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s:%w", path, err)
	}
	if root != nil {
		d := decoder{report: r, folder: folder, schema: into.Type()}
		d.decode(root, into, "", "")
	}
	return r, nil
}

// readFile reads a file that is not larger than limit bytes. The error is the end
// of a sentence that begins with the file.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, bare(err)
	}
	defer func() { _ = f.Close() }() // read only
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, bare(err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("has more than %d bytes", limit)
	}
	return data, nil
}

// bare takes the operation and the name off an error of package os.
func bare(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return fmt.Errorf("cannot be read (%w)", err)
}

// parse returns the root of the one document in data, nil if there is none. Its
// error begins with the line.
func parse(data []byte) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, nil //nolint:nilnil // an empty file is a file without fields
	case err != nil:
		return nil, syntaxError(err)
	}
	switch err := dec.Decode(&second); {
	case err == nil:
		return nil, fmt.Errorf("%d: found a second document, allowed is one", second.Line)
	case !errors.Is(err, io.EOF):
		return nil, syntaxError(err)
	}
	if len(doc.Content) != 1 || isNull(doc.Content[0]) {
		return nil, nil //nolint:nilnil // comments only
	}
	return doc.Content[0], nil
}

var yamlLine = regexp.MustCompile(`(?s)^(?:yaml: )+(?:line (\d+): )?(.*)$`)

// syntaxError brings the YAML parser's message into the form of all others.
func syntaxError(err error) error {
	line, text := "", err.Error()
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		line, text = m[1], m[2]
	}
	if line == "" { // the parser does not always know
		return fmt.Errorf(" not YAML: %s", text)
	}
	return fmt.Errorf("%s: not YAML: %s", line, text)
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }
