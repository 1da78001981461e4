package config

import (
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

// section returns the struct behind a type that has fields: a struct or a pointer to one.
func section(t reflect.Type) (reflect.Type, bool) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t, t.Kind() == reflect.Struct && t != reflect.TypeFor[Address]()
}

// eachField calls visit with the full name of every field of the struct and of the structs in it,
// also in pointers, lists and maps.
func eachField(v reflect.Value, in string, visit func(v reflect.Value, field string, tag reflect.StructTag)) {
	for f, value := range v.Fields() {
		field := join(in, nameOf(f))
		visit(value, field, f.Tag)
		eachFieldIn(value, field, visit)
	}
}

func eachFieldIn(v reflect.Value, field string, visit func(v reflect.Value, field string, tag reflect.StructTag)) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			eachFieldIn(v.Elem(), field, visit)
		}
	case reflect.Struct:
		if _, ok := section(v.Type()); ok {
			eachField(v, field, visit)
		}
	case reflect.Slice:
		for i := range v.Len() {
			eachFieldIn(v.Index(i), element(field, i), visit)
		}
	case reflect.Map:
		for key, value := range v.Seq2() {
			eachFieldIn(value, entry(field, key.String()), visit)
		}
	default:
	}
}

// missing reports the fields that have no default and are not in the file.
func (r *report) missing(cfg reflect.Value) {
	eachField(cfg, "", func(v reflect.Value, field string, tag reflect.StructTag) {
		if tag.Get("required") == "" || !v.IsZero() || r.given(field) {
			return
		}
		for parent := parentOf(field); parent != ""; parent = parentOf(parent) {
			if r.hasMistake(parent) {
				return
			}
		}
		r.add(r.mark(field), field, "missing field "+field)
	})
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
