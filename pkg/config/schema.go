package config

import (
	"encoding/json"
	"errors"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// schema is a JSON Schema. It is built from the structs by hand, because libraries that reflect on
// structs do not read the tags of this package and the embedded comments.
type schema struct {
	Schema      string             `json:"$schema,omitempty"`
	Title       string             `json:"title,omitempty"`
	Description string             `json:"description,omitempty"`
	Type        string             `json:"type,omitempty"`
	AnyOf       []*schema          `json:"anyOf,omitempty"`
	Const       *int               `json:"const,omitempty"`
	Properties  map[string]*schema `json:"properties,omitempty"`
	Required    []string           `json:"required,omitempty"`
	Additional  any                `json:"additionalProperties,omitempty"` // false or a *schema
	Items       *schema            `json:"items,omitempty"`
	Enum        []string           `json:"enum,omitempty"`
	Pattern     string             `json:"pattern,omitempty"`
	Minimum     *int               `json:"minimum,omitempty"`
	Maximum     *int               `json:"maximum,omitempty"`
	Default     any                `json:"default,omitempty"`
}

// Schema returns a JSON Schema (2020-12) of a configuration, Authzd or Keyd, with which editors
// complete and check a file. It accepts every file that loads, except for unusual forms of durations.
// It does not check fields against each other, bounds of durations and named files.
func Schema[C any, P program[C]]() ([]byte, error) {
	cfg := P(new(C))
	cfg.setDefaults()
	root := describer(comments()).section(reflect.ValueOf(cfg).Elem())
	root.Schema = "https://json-schema.org/draft/2020-12/schema"
	root.Title = "Configuration of " + strings.ToLower(reflect.TypeFor[C]().Name())
	text, err := json.MarshalIndent(root, "", "  ")
	return append(text, '\n'), err
}

// describer makes schemas of values, with the comments of their fields.
type describer map[string]string

// section describes a struct that holds the defaults.
func (d describer) section(v reflect.Value) *schema {
	s := &schema{Type: "object", Properties: map[string]*schema{}, Additional: false}
	for f, value := range v.Fields() {
		p := d.value(value, f.Tag)
		p.Description = described(d[v.Type().Name()+"."+f.Name], f.Tag)
		if !isNone(value) && p.Properties == nil {
			p.Default = plain(value)
		}
		if f.Tag.Get("required") != "" || value.Kind() == reflect.Struct && len(p.Required) > 0 {
			s.Required = append(s.Required, nameOf(f))
			p.Default = nil
		}
		s.Properties[nameOf(f)] = p
	}
	return s
}

const (
	durationPattern = `^\+?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$`
	addressPattern  = `^(tcp://.+:[0-9]+|unix:///.+)$`
)

func (d describer) value(v reflect.Value, tag reflect.StructTag) *schema {
	if inner, ok := section(v.Type()); ok {
		if v.Kind() == reflect.Pointer {
			v = newDefault(inner).Elem()
		}
		return d.section(v)
	}
	item := func() *schema { return d.value(newDefault(v.Type().Elem()).Elem(), tag) }
	switch v.Interface().(type) {
	case bool:
		return &schema{Type: "boolean"}
	case int:
		low, high := bounds(tag)
		return &schema{Type: "integer", Minimum: number(low), Maximum: number(high)}
	case Duration:
		return &schema{AnyOf: []*schema{{Type: "string", Pattern: durationPattern}, {Const: number("0")}}}
	case Address:
		return &schema{Type: "string", Pattern: addressPattern}
	}
	if v.Kind() == reflect.Slice {
		return &schema{Type: "array", Items: item()}
	}
	if v.Kind() == reflect.Map {
		return &schema{Type: "object", Additional: item()}
	}
	s := &schema{Type: "string", Enum: oneOf(tag)}
	if s.Enum == nil && tag.Get("empty") == "" {
		s.Pattern = "." // not empty
	}
	return s
}

func number(s string) *int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err) // a tag of this package
	}
	return &n
}

// plain returns a value in the types of encoding/json.
func plain(v reflect.Value) (x any) {
	text, err := yaml.Dump(v.Interface())
	if err = errors.Join(err, yaml.Load(text, &x)); err != nil {
		panic(err) // a default of this package
	}
	return x
}
