package config

import (
	"reflect"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"
)

// nameOf returns the field's name in the file.
func nameOf(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return name
}

// join makes the full name of a field from its section's and its own.
func join(section, name string) string {
	if section == "" || strings.HasPrefix(name, "[") {
		return section + name
	}
	return section + "." + name
}

// bounds returns both ends of a range tag.
func bounds(tag reflect.StructTag) (low, high string) {
	low, high, _ = strings.Cut(tag.Get("range"), "..")
	return low, high
}

// section returns the struct behind a type that has fields of its own: a struct,
// or a pointer to one.
func section(t reflect.Type) (reflect.Type, bool) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t, t.Kind() == reflect.Struct && t != reflect.TypeFor[Address]()
}

// eachField calls visit for every field of the struct and of the structs in it,
// those in pointers, lists and maps too, with its full name.
func eachField(v reflect.Value, in string, visit func(v reflect.Value, field string, tag reflect.StructTag)) {
	for f, value := range v.Fields() {
		field := join(in, nameOf(f))
		visit(value, field, f.Tag)
		into(value, field, visit)
	}
}

func into(v reflect.Value, field string, visit func(v reflect.Value, field string, tag reflect.StructTag)) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			into(v.Elem(), field, visit)
		}
	case reflect.Struct:
		if _, ok := section(v.Type()); ok {
			eachField(v, field, visit)
		}
	case reflect.Slice:
		for i := range v.Len() {
			into(v.Index(i), element(field, i), visit)
		}
	case reflect.Map:
		for key, value := range v.Seq2() {
			into(value, entry(field, key.String()), visit)
		}
	default:
	}
}

// missing reports the fields that have no default and are not in the file.
func (r *report) missing(cfg reflect.Value, in string) {
	eachField(cfg, in, func(v reflect.Value, field string, tag reflect.StructTag) {
		if tag.Get("required") != "" && v.IsZero() && !r.given(field) && !r.withinSpoiled(field) {
			r.wrong(field, "nothing", "a value, because it has no default")
		}
	})
}

// NeedsRestart returns the full names of the fields, such as "cache.unknown", that
// differ between the running and the loaded configuration and that only a restart
// takes up.
func NeedsRestart[C any](running, loaded *C) []string {
	var names []string
	differing(reflect.ValueOf(running).Elem(), reflect.ValueOf(loaded).Elem(), "", &names)
	return names
}

func differing(a, b reflect.Value, in string, names *[]string) {
	for f, value := range a.Fields() {
		field, other := join(in, nameOf(f)), b.FieldByIndex(f.Index)
		switch _, isSection := section(f.Type); {
		case f.Tag.Get("restart") != "":
			if !reflect.DeepEqual(value.Interface(), other.Interface()) {
				*names = append(*names, field)
			}
		case isSection && value.Kind() == reflect.Struct:
			differing(value, other, field, names)
		}
	}
}

// nearest returns the full name of the field that somebody who wrote name into the
// section most likely meant: the most similar name there, or the same name, but
// for a letter, elsewhere.
func nearest(schema, here reflect.Type, in, name string) string {
	name = name[:min(len(name), 2*maxShown)] // nothing longer is near anything
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
	everyName(schema, "", func(full, candidate string) {
		if d := levenshtein.ComputeDistance(name, candidate) + 1; d <= 2 && d < distance {
			best, distance = full, d
		}
	})
	return best
}

// everyName calls visit with the full name and the name of every field that a
// configuration of the type can have, but those in lists and maps.
func everyName(t reflect.Type, in string, visit func(full, name string)) {
	for f := range t.Fields() {
		full := join(in, nameOf(f))
		visit(full, nameOf(f))
		if s, ok := section(f.Type); ok {
			everyName(s, full, visit)
		}
	}
}

// units of a duration, largest first.
var units = []struct {
	name string
	unit time.Duration
}{{"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}, {"ms", time.Millisecond}}
