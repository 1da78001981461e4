package config

import (
	"encoding"
	"reflect"
	"strconv"
	"strings"

	"github.com/agnivade/levenshtein"
)

// nameOf returns the field's name in the file.
func nameOf(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return name
}

// join returns the full name of a field in a section.
func join(section, name string) string {
	if section == "" || strings.HasPrefix(name, "[") {
		return section + name
	}
	return section + "." + name
}

// element and entry return the full names of an item of a list and of a map.
func element(field string, i int) string { return field + "[" + strconv.Itoa(i) + "]" }
func entry(field, key string) string     { return field + "[" + quote(key) + "]" }

// bounds returns both ends of a range tag.
func bounds(tag reflect.StructTag) (low, high string) {
	low, high, _ = strings.Cut(tag.Get("range"), "..")
	return low, high
}

// oneOf returns the strings of a oneof tag, nil without one.
func oneOf(tag reflect.StructTag) []string {
	if list := tag.Get("oneof"); list != "" {
		return strings.Split(list, "|")
	}
	return nil
}

var textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

// section returns the struct behind a type that has fields: a struct or a pointer to one.
func section(t reflect.Type) (reflect.Type, bool) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t, t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(textUnmarshaler)
}

// NeedsRestart returns the full names of the fields, such as "cache.unknown", that differ between
// the running and the loaded configuration and that a reload ignores.
func NeedsRestart[C any](running, loaded *C) []string {
	return changedForRestart(reflect.ValueOf(running).Elem(), reflect.ValueOf(loaded).Elem(), "")
}

func changedForRestart(a, b reflect.Value, in string) (names []string) {
	for f, value := range a.Fields() {
		field, other := join(in, nameOf(f)), b.FieldByIndex(f.Index)
		if f.Tag.Get("restart") != "" {
			if !reflect.DeepEqual(value.Interface(), other.Interface()) {
				names = append(names, field)
			}
		} else if _, ok := section(f.Type); ok && value.Kind() == reflect.Struct {
			names = append(names, changedForRestart(value, other, field)...)
		}
	}
	return names
}

// nearest returns the full name of the field that is most likely meant by an unknown name in a
// section: the most similar name there, or the same name, but for one letter, elsewhere.
func nearest(schema, here reflect.Type, in, name string) string {
	name = name[:min(len(name), 2*maxShown)] // bounds the time for a long name
	best, distance := "", 0
	for f := range here.Fields() {
		d := levenshtein.ComputeDistance(name, nameOf(f))
		if strings.HasPrefix(nameOf(f), name) {
			d = min(d, 1) // token for token_file
		}
		if best == "" || d < distance {
			best, distance = join(in, nameOf(f)), d
		}
	}
	eachName(schema, "", func(full, candidate string) {
		if d := levenshtein.ComputeDistance(name, candidate) + 1; d <= 2 && d < distance {
			best, distance = full, d
		}
	})
	return best
}

// eachName calls visit with the full name and the name of every field that a configuration of the
// type can have, except those in lists and maps.
func eachName(t reflect.Type, in string, visit func(full, name string)) {
	for f := range t.Fields() {
		full := join(in, nameOf(f))
		visit(full, nameOf(f))
		if s, ok := section(f.Type); ok {
			eachName(s, full, visit)
		}
	}
}
