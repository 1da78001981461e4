package config

import (
	"cmp"
	"encoding"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
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
	// 0 is a duration without a unit. The yaml package resolves -0 to a float.
	return n.Tag == "!!str" || t == reflect.TypeFor[Duration]() && (n.Tag == "!!int" || n.Tag == "!!float")
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

const (
	// maxMistakes is the number of mistakes that an error lists. Larger floods the log when a wrong
	// file is given; smaller takes more attempts to correct a file.
	maxMistakes = 100
	// maxShown is how much of a name from the file a message repeats, in bytes.
	maxShown = 60
)

// report collects the mistakes of one file.
type report struct {
	label    string               // the file's name
	marks    map[string]yaml.Mark // position of each field that the file gives, by its full name
	mistakes []mistake

	mode    checkMode
	holders map[credential.Digest]string // the field that has each secret
}

func newReport(label string, mode checkMode) *report {
	return &report{label: label, marks: map[string]yaml.Mark{}, mode: mode, holders: map[credential.Digest]string{}}
}

type mistake struct {
	mark  yaml.Mark // the zero Mark: the file does not give the field
	field string
	text  string
}

func markOf(n *yaml.Node) yaml.Mark { return yaml.Mark{Line: n.Line, Column: n.Column} }

func (r *report) add(mark yaml.Mark, field, text string) {
	r.mistakes = append(r.mistakes, mistake{mark, field, text})
}

// invalid adds "FIELD is invalid: must …".
func (r *report) invalid(field, must string) {
	r.add(r.mark(field), field, cmp.Or(field, "the configuration")+" is invalid: "+must)
}

// given reports whether the file has the field, valid or not.
func (r *report) given(field string) bool { _, ok := r.marks[field]; return ok }

// hasMistake reports whether the field has a mistake, so that its value cannot be checked.
func (r *report) hasMistake(field string) bool {
	return slices.ContainsFunc(r.mistakes, func(m mistake) bool { return m.field == field })
}

// parentOf returns the full name of the section or list that a field is in.
func parentOf(field string) string { return field[:max(0, strings.LastIndexAny(field, ".["))] }

// mark returns the position of the field or, if the file does not give it, of the nearest section
// that the field would be in.
func (r *report) mark(field string) yaml.Mark {
	for ; field != ""; field = parentOf(field) {
		if mark, ok := r.marks[field]; ok {
			return mark
		}
	}
	return r.marks[""]
}

// section returns a report with the mistakes of the section and of the file as a whole.
func (r *report) section(name string) *report {
	kept := slices.DeleteFunc(slices.Clone(r.mistakes), func(m mistake) bool {
		return m.field != "" && m.field != name && !strings.HasPrefix(m.field, name+".")
	})
	return &report{label: r.label, mistakes: kept}
}

// err returns all mistakes in the order of the file, one line each; nil if there are none.
func (r *report) err() error {
	if len(r.mistakes) == 0 {
		return nil
	}
	slices.SortStableFunc(r.mistakes, func(a, b mistake) int {
		return cmp.Or(cmp.Compare(a.mark.Line, b.mark.Line), cmp.Compare(a.mark.Column, b.mark.Column))
	})
	var lines []string
	for _, m := range r.mistakes[:min(len(r.mistakes), maxMistakes)] {
		position := ""
		if m.mark.Line > 0 {
			position = fmt.Sprintf(":%d:%d", m.mark.Line, m.mark.Column)
		}
		lines = append(lines, r.label+position+": "+m.text)
	}
	if more := len(r.mistakes) - maxMistakes; more > 0 {
		lines = append(lines, fmt.Sprintf("%s: and %d more", r.label, more))
	}
	return errors.New(strings.Join(lines, "\n"))
}

// quote quotes a name from the file for a message, but not one that may be a secret.
func quote(name string) string {
	switch {
	case credential.ShapeOf(name) != credential.Foreign, credential.ContainsPlaintext(name), strings.Contains(name, "@"):
		return "a name that may be a secret"
	case len(name) > maxShown:
		return strconv.Quote(strings.ToValidUTF8(name[:maxShown], "")) + "…"
	}
	return strconv.Quote(name)
}

// quoteName returns a field's name as it is if it consists of letters, digits, _ and -, else in
// brackets and quotes.
func quoteName(name string) string {
	if quoted := quote(name); name == "" || quoted != `"`+name+`"` || strings.Trim(name, dnsCharacters) != "" {
		return "[" + quoted + "]"
	}
	return name
}
