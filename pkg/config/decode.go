package config

import (
	"fmt"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// decoder fills a struct that holds the defaults from YAML nodes. A field with a
// mistake keeps its default, so that everything else is still looked at.
type decoder struct {
	*report
	folder string       // of the file, which relative file names are taken from
	schema reflect.Type // of the whole configuration
}

func (d *decoder) decode(n *yaml.Node, v reflect.Value, field string, tag reflect.StructTag) {
	if !d.given(field) {
		d.lines[field] = n.Line
	}
	if !d.isPlain(n, field) {
		return
	}
	switch p := v.Addr().Interface().(type) {
	case *Address:
		d.address(n, p, field)
		return
	case *time.Duration:
		d.duration(n, p, field, tag)
		return
	case *File:
		d.fileName(n, p, field)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if n.Kind != yaml.MappingNode {
			d.wrong(field, kindOf(n), "a mapping")
			return
		}
		v.Set(newDefault(v.Type().Elem()))
		d.mapping(n, v.Elem(), field)
	case reflect.Struct:
		d.mapping(n, v, field)
	case reflect.Slice:
		d.list(n, v, field, tag)
	case reflect.Map:
		d.table(n, v, field)
	case reflect.Bool:
		d.bool(n, v, field)
	case reflect.Int:
		d.int(n, v, field, tag)
	default:
		d.text(n, v, field, tag)
	}
}

// isPlain refuses what a configuration does not need and a reader would not see
// through: anchors, aliases and tags.
func (d *decoder) isPlain(n *yaml.Node, field string) bool {
	switch {
	case n.Kind == yaml.AliasNode:
		d.wrong(field, "an alias", "the value itself")
	case n.Anchor != "":
		d.wrong(field, "an anchor", "the value alone")
	case n.Style&yaml.TaggedStyle != 0:
		d.wrong(field, "a tag", "the value alone")
	default:
		return true
	}
	return false
}

// newDefault returns a pointer to a new value with its defaults.
func newDefault(t reflect.Type) reflect.Value {
	p := reflect.New(t)
	if x, ok := p.Interface().(interface{ setDefaults() }); ok {
		x.setDefaults()
	}
	return p
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, field string) {
	if n.Kind != yaml.MappingNode {
		d.wrong(field, kindOf(n), "a mapping")
		return
	}
	fields := map[string]reflect.StructField{}
	for f := range v.Type().Fields() {
		fields[nameOf(f)] = f
	}
	named := func(key string) string { return join(field, word(key)) }
	for key, value := range d.entries(n, field, named) {
		full := named(key.Value)
		d.lines[full] = key.Line
		f, ok := fields[key.Value]
		if !ok {
			d.unknown(full, nearest(d.schema, v.Type(), field, key.Value))
			continue
		}
		d.decode(value, v.FieldByIndex(f.Index), full, f.Tag)
	}
}

// unknown reports a field that does not exist. The one that was meant counts as
// given, so that it is not reported as missing, too.
func (d *decoder) unknown(field, meant string) {
	d.wrong(field, "an unknown field", meant+" (the nearest)")
	if !d.given(meant) {
		d.lines[meant] = d.lines[field]
	}
}

// entries yields the keys of a mapping with their values, each key once; named
// gives a key's full name.
func (d *decoder) entries(n *yaml.Node, field string, named func(string) string) func(yield func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		first := map[string]int{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			if key.Kind != yaml.ScalarNode || key.Tag != "!!str" || key.Anchor != "" || key.Style&yaml.TaggedStyle != 0 {
				d.mistakes = append(d.mistakes, mistake{key.Line, field, kindOf(key) + " for a name", "a plain word"})
				continue
			}
			if line, again := first[key.Value]; again {
				d.mistakes = append(d.mistakes, mistake{
					key.Line, named(key.Value),
					"the same field again, first on line " + strconv.Itoa(line), "each field once",
				})
				continue
			}
			first[key.Value] = key.Line
			if !yield(key, value) {
				return
			}
		}
	}
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, field string, tag reflect.StructTag) {
	if n.Kind != yaml.SequenceNode {
		d.wrong(field, kindOf(n), "a list, such as [a, b]")
		return
	}
	v.SetZero()
	for i, item := range n.Content {
		value := newDefault(v.Type().Elem()).Elem()
		d.decode(item, value, element(field, i), tag)
		v.Set(reflect.Append(v, value))
	}
}

// table decodes a mapping whose keys are names of the user's own.
func (d *decoder) table(n *yaml.Node, v reflect.Value, field string) {
	if n.Kind != yaml.MappingNode {
		d.wrong(field, kindOf(n), "a mapping")
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	named := func(key string) string { return entry(field, key) }
	for key, value := range d.entries(n, field, named) {
		item := newDefault(v.Type().Elem()).Elem()
		d.decode(value, item, named(key.Value), "")
		v.SetMapIndex(reflect.ValueOf(key.Value), item)
	}
}

func (d *decoder) bool(n *yaml.Node, v reflect.Value, field string) {
	if n.Tag != "!!bool" || (n.Value != "true" && n.Value != "false") {
		d.wrong(field, valueOf(n), "true or false")
		return
	}
	v.SetBool(n.Value == "true")
}

var decimal = regexp.MustCompile(`^(0|[1-9][0-9]*)$`)

func (d *decoder) int(n *yaml.Node, v reflect.Value, field string, tag reflect.StructTag) {
	low, high := bounds(tag)
	number, err := strconv.Atoi(n.Value)
	least, _ := strconv.Atoi(low)
	most, _ := strconv.Atoi(high)
	switch {
	case n.Tag != "!!int":
		d.wrong(field, valueOf(n), "a whole number, "+low+" to "+high)
	case !decimal.MatchString(n.Value) && number >= 0:
		d.wrong(field, number10(n), low+" to "+high+" in plain digits")
	case err != nil || number < least || number > most:
		d.wrong(field, number10(n), low+" to "+high)
	default:
		v.SetInt(int64(number))
	}
}

func number10(n *yaml.Node) string { return strings.Trim(show(n.Value), `"`) }

func (d *decoder) duration(n *yaml.Node, p *time.Duration, field string, tag reflect.StructTag) {
	low, high := bounds(tag)
	allowed := low + " to " + high + ", " + durationExamples
	value, ok := parseDuration(n.Value)
	least, _ := parseDuration(low)
	most, _ := parseDuration(high)
	switch {
	case n.Kind != yaml.ScalarNode || isNull(n):
		d.wrong(field, kindOf(n), allowed)
	case !ok && n.Tag == "!!int":
		d.wrong(field, number10(n)+" without a unit", allowed)
	case !ok || value < least || value > most:
		d.wrong(field, show(n.Value), allowed)
	default:
		*p = value
	}
}

func (d *decoder) text(n *yaml.Node, v reflect.Value, field string, tag reflect.StructTag) {
	words := strings.Split(tag.Get("oneof"), "|")
	allowed := "a string"
	if words[0] != "" {
		allowed = anyOf(words)
	}
	switch {
	case n.Kind != yaml.ScalarNode || n.Tag != "!!str":
		if n.Kind == yaml.ScalarNode && !isNull(n) && words[0] == "" {
			allowed += " (in quotes, if that is what is meant)"
		}
		d.wrong(field, kindOf(n), allowed)
	case n.Value == "" && tag.Get("empty") == "":
		d.wrong(field, "an empty string", allowed)
	case words[0] != "" && !slices.Contains(words, n.Value):
		d.wrong(field, show(n.Value), allowed)
	default:
		v.SetString(n.Value)
	}
}

func (d *decoder) fileName(n *yaml.Node, p *File, field string) {
	switch {
	case n.Kind != yaml.ScalarNode || n.Tag != "!!str":
		d.wrong(field, kindOf(n), "a file name")
	case n.Value == "":
		d.wrong(field, "an empty string", "a file name; leave the field out for none")
	case looksSecret(n.Value):
		d.wrong(field, "what looks like the secret itself", "the name of a file that holds it")
	case strings.ContainsFunc(n.Value, isControl):
		d.wrong(field, show(n.Value), "a file name")
	case filepath.IsAbs(n.Value):
		*p = File(filepath.Clean(n.Value))
	default:
		*p = File(filepath.Join(d.folder, n.Value))
	}
}

func (d *decoder) address(n *yaml.Node, p *Address, field string) {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" {
		d.wrong(field, kindOf(n), addressForm)
		return
	}
	a, why := parseAddress(n.Value)
	if why != "" {
		d.wrong(field, show(n.Value)+why, addressForm)
		return
	}
	*p = a
}

// kindOf names what stands in the file where something else belongs.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	default:
	}
	switch n.Tag {
	case "!!null":
		return "nothing"
	case "!!bool":
		return fmt.Sprintf("the truth value %s", number10(n))
	case "!!int", "!!float":
		return fmt.Sprintf("the number %s", number10(n))
	case "!!timestamp":
		return "a date"
	case "!!merge":
		return "a merge"
	}
	return "a string"
}

// valueOf is kindOf with a string's text.
func valueOf(n *yaml.Node) string {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		return "the string " + show(n.Value)
	}
	return kindOf(n)
}
