package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// Print returns the configuration with all defaults as YAML that loads to the same value. It
// names files and never holds their content.
func Print[C any](cfg *C) ([]byte, error) {
	text, err := yaml.Dump(encode(reflect.ValueOf(cfg).Elem()))
	if err != nil {
		return nil, fmt.Errorf("print configuration: %w", err)
	}
	return text, nil
}

func encode(v reflect.Value) *yaml.Node {
	switch x := v.Interface().(type) {
	case Address:
		return scalar("!!str", x.URL())
	case time.Duration:
		return scalar("", formatDuration(x))
	}
	switch v.Kind() {
	case reflect.Pointer:
		return encode(v.Elem())
	case reflect.Struct:
		return encodeStruct(v)
	case reflect.Slice:
		list := &yaml.Node{Kind: yaml.SequenceNode}
		for _, item := range v.Seq2() {
			list.Content = append(list.Content, encode(item))
		}
		list.Style = flowUnlessNested(list)
		return list
	case reflect.Map:
		return encodeMap(v)
	case reflect.Bool:
		return scalar("!!bool", strconv.FormatBool(v.Bool()))
	case reflect.Int:
		return scalar("!!int", strconv.FormatInt(v.Int(), 10))
	default:
		return scalar("!!str", v.String())
	}
}

func scalar(tag, value string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: value}
}

func encodeStruct(v reflect.Value) *yaml.Node {
	m := &yaml.Node{Kind: yaml.MappingNode}
	for f, value := range v.Fields() {
		if unset(f, value) {
			continue
		}
		m.Content = append(m.Content, scalar("!!str", nameOf(f)), encode(value))
	}
	return m
}

// unset reports whether a field is left out: an optional string, file or section that is not
// given, because a file cannot write it as empty.
func unset(f reflect.StructField, v reflect.Value) bool {
	switch v.Kind() {
	case reflect.String, reflect.Pointer:
		return v.IsZero()
	case reflect.Slice:
		return v.Len() == 0 && strings.HasSuffix(f.Tag.Get("yaml"), ",omitempty")
	default:
		return false
	}
}

func encodeMap(v reflect.Value) *yaml.Node {
	m := &yaml.Node{Kind: yaml.MappingNode}
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	for _, key := range keys {
		m.Content = append(m.Content, scalar("!!str", key.String()), encode(v.MapIndex(key)))
	}
	if len(keys) == 0 {
		m.Style = yaml.FlowStyle
	}
	return m
}

func flowUnlessNested(list *yaml.Node) yaml.Style {
	for _, item := range list.Content {
		if item.Kind != yaml.ScalarNode {
			return 0
		}
	}
	return yaml.FlowStyle
}
