package config

import (
	"encoding"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// decoder fills a struct that holds the defaults from YAML nodes. The yaml package resolves tags
// and converts scalars. Its option UniqueKeys skips a mapping with a repeated key and so hides the
// other mistakes in it, and the errors of KnownFields and of its conversions quote values and name
// Go types, so the decoder checks names itself: it knows the full name of each field. A field with
// a mistake keeps its default, and the rest of the file is still checked.
type decoder struct {
	*report
	folder string       // of the file; relative file names are relative to it
	schema reflect.Type // of the whole configuration
	values int          // decoded so far

	merging []*yaml.Node // mappings whose entries are being merged into others
}

func (d *decoder) decode(n *yaml.Node, v reflect.Value, field string, tag reflect.StructTag) {
	if d.values++; d.values > maxValues {
		return
	}
	if !d.given(field) {
		d.marks[field] = markOf(n)
	}
	n = target(n)
	inner, isSection := section(v.Type())
	switch {
	case isSection && n.Kind == yaml.MappingNode && v.Kind() == reflect.Pointer:
		v.Set(newDefault(inner))
		d.mapping(n, v.Elem(), field)
	case isSection && n.Kind == yaml.MappingNode:
		d.mapping(n, v, field)
	case v.Kind() == reflect.Map && n.Kind == yaml.MappingNode:
		d.table(n, v, field)
	case v.Kind() == reflect.Slice && n.Kind == yaml.SequenceNode:
		d.list(n, v, field, tag)
	case isSection, v.Kind() == reflect.Map:
		d.invalid(field, "must be a mapping")
	case v.Kind() == reflect.Slice:
		d.invalid(field, "must be a list, such as [a, b]")
	default:
		d.scalar(n, v, field, tag)
	}
}

// target returns the node that an alias refers to, and any other node itself.
func target(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
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
	fields := map[string]reflect.StructField{}
	for f := range v.Type().Fields() {
		fields[nameOf(f)] = f
	}
	fullName := func(key string) string { return join(field, quoteName(key)) }
	for _, e := range d.entries(n, fullName) {
		full := fullName(e.key.Value)
		d.marks[full] = markOf(e.key)
		f, ok := fields[e.key.Value]
		if !ok {
			d.unknown(full, nearest(d.schema, v.Type(), field, e.key.Value))
			continue
		}
		d.decode(e.value, v.FieldByIndex(f.Index), full, f.Tag)
	}
	d.absent(v, field)
}

// absent reports the fields of a section that are required and not given.
func (d *decoder) absent(v reflect.Value, in string) {
	for f, value := range v.Fields() {
		field := join(in, nameOf(f))
		if d.given(field) {
			continue
		}
		if f.Tag.Get("required") != "" {
			d.add(d.mark(field), field, "missing field "+field)
		} else if _, ok := section(f.Type); ok && value.Kind() == reflect.Struct {
			d.absent(value, field)
		}
	}
}

// unknown reports a field that does not exist. The nearest one counts as given, so that it is not
// reported as missing too.
func (d *decoder) unknown(field, nearest string) {
	d.add(d.marks[field], field, "unknown field "+field+": did you mean "+nearest+"?")
	if !d.given(nearest) {
		d.marks[nearest] = d.marks[field]
	}
}

type mapEntry struct{ key, value *yaml.Node }

// entries returns the entries of a mapping, each key once. Merged entries (`<<`) come last, and
// only those whose key the mapping itself does not have.
func (d *decoder) entries(n *yaml.Node, fullName func(string) string) (list []mapEntry) {
	if d.values += len(n.Content); d.values > maxValues {
		return nil
	}
	var merged []mapEntry
	first := map[string]int{} // line of each key
	for i := 0; i+1 < len(n.Content); i += 2 {
		e := mapEntry{n.Content[i], n.Content[i+1]}
		line, repeated := first[e.key.Value]
		switch {
		case e.key.Tag == "!!merge":
			merged = append(merged, d.merged(e.value, fullName)...)
		case e.key.Kind != yaml.ScalarNode || e.key.Tag != "!!str":
			d.add(markOf(e.key), "", "invalid field name: must be a string")
		case repeated:
			d.add(markOf(e.key), fullName(e.key.Value), fmt.Sprintf("repeated field %s: first given on line %d", fullName(e.key.Value), line))
		default:
			first[e.key.Value] = e.key.Line
			list = append(list, e)
		}
	}
	for _, e := range merged {
		if _, overridden := first[e.key.Value]; !overridden {
			first[e.key.Value] = e.key.Line
			list = append(list, e)
		}
	}
	return list
}

// merged returns the entries of a merge key's value: a mapping or a list of mappings.
func (d *decoder) merged(value *yaml.Node, fullName func(string) string) (list []mapEntry) {
	mappings := []*yaml.Node{value}
	if target(value).Kind == yaml.SequenceNode {
		mappings = target(value).Content
	}
	for _, m := range mappings {
		mapping := target(m)
		if mapping.Kind != yaml.MappingNode || slices.Contains(d.merging, mapping) {
			d.add(markOf(m), "", "<< is invalid: must be another mapping or a list of other mappings")
			continue
		}
		d.merging = append(d.merging, mapping)
		list = append(list, d.entries(mapping, fullName)...)
		d.merging = d.merging[:len(d.merging)-1]
	}
	return list
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, field string, tag reflect.StructTag) {
	v.SetZero()
	for i, item := range n.Content {
		value := newDefault(v.Type().Elem()).Elem()
		d.decode(item, value, element(field, i), tag)
		v.Set(reflect.Append(v, value))
	}
}

// table decodes a mapping whose keys are names that the user chooses.
func (d *decoder) table(n *yaml.Node, v reflect.Value, field string) {
	v.Set(reflect.MakeMap(v.Type()))
	fullName := func(key string) string { return entry(field, key) }
	for _, e := range d.entries(n, fullName) {
		value := newDefault(v.Type().Elem()).Elem()
		d.marks[fullName(e.key.Value)] = markOf(e.key)
		d.decode(e.value, value, fullName(e.key.Value), "")
		v.SetMapIndex(reflect.ValueOf(e.key.Value), value)
	}
}

// scalar decodes a value that is not a mapping or list.
func (d *decoder) scalar(n *yaml.Node, v reflect.Value, field string, tag reflect.StructTag) {
	loaded := reflect.New(v.Type())
	if !hasKind(n, v.Type()) || n.Load(loaded.Interface()) != nil || !accepts(loaded.Elem(), tag) {
		must := mustBe(v.Type(), tag)
		if u, ok := loaded.Interface().(encoding.TextUnmarshaler); ok && tag.Get("range") == "" {
			if err := u.UnmarshalText([]byte(n.Value)); err != nil {
				must = err.Error()
			}
		}
		d.invalid(field, must)
		return
	}
	if name, ok := loaded.Interface().(*File); ok {
		if !filepath.IsAbs(string(*name)) {
			*name = File(filepath.Join(d.folder, string(*name)))
		}
		d.checkFile(field, string(*name), tag.Get("file"))
	}
	v.Set(loaded.Elem())
}

// hasKind reports whether the node is a scalar that the file writes as a value of the kind. The
// yaml package would accept true as a string, and 0x10 and 010 (8) as numbers.
func hasKind(n *yaml.Node, t reflect.Type) bool {
	switch {
	case n.Kind != yaml.ScalarNode:
		return false
	case t.Kind() == reflect.Bool:
		return n.Tag == "!!bool"
	case t.Kind() == reflect.Int:
		number, err := strconv.Atoi(n.Value)
		return n.Tag == "!!int" && err == nil && strconv.Itoa(number) == n.Value
	}
	return n.Tag == "!!str" || t == reflect.TypeFor[Duration]() && n.Tag == "!!int" // 0
}

// accepts reports whether the tag allows a value.
func accepts(v reflect.Value, tag reflect.StructTag) bool {
	low, high := bounds(tag)
	switch x := v.Interface().(type) {
	case Duration:
		least, _ := time.ParseDuration(low)
		most, _ := time.ParseDuration(high)
		return least <= x.Duration && x.Duration <= most
	case int:
		least, _ := strconv.Atoi(low)
		most, _ := strconv.Atoi(high)
		return least <= x && x <= most
	case string:
		allowed := oneOf(tag)
		return (x != "" || tag.Get("empty") != "") && (allowed == nil || slices.Contains(allowed, x))
	}
	return true
}

// mustBe says what a scalar of the type with the tag must be, for a message.
func mustBe(t reflect.Type, tag reflect.StructTag) string {
	low, high := bounds(tag)
	switch allowed := oneOf(tag); {
	case allowed != nil:
		return "must be " + anyOf(allowed)
	case t == reflect.TypeFor[Duration]():
		return "must be a duration from " + low + " to " + high + ", such as 300ms, 2.5s, 1m30s or 1h"
	case t == reflect.TypeFor[Address]():
		return "must be " + addressForm
	case t == reflect.TypeFor[File]():
		return fileForm
	case t.Kind() == reflect.Int:
		return "must be a whole number from " + low + " to " + high
	case t.Kind() == reflect.Bool:
		return "must be true or false"
	case tag.Get("empty") != "":
		return "must be a string"
	}
	return "must be a string that is not empty"
}

// anyOf joins a list as "a, b or c".
func anyOf(list []string) string {
	if len(list) < 2 {
		return strings.Join(list, "")
	}
	last := len(list) - 1
	return strings.Join(list[:last], ", ") + " or " + list[last]
}
