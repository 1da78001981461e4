package envoylint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// node is a value of the tree with its location. The zero node is an absent value; its methods
// return absent or zero values.
type node struct {
	path  string
	value any
}

// parse reads YAML or JSON. It requires one document, because Envoy ignores further ones.
func parse(data []byte) (node, error) {
	trimmed := bytes.TrimSpace(data)
	if len(trimmed) > 0 && (trimmed[0] == '{' || trimmed[0] == '[') {
		var value any
		if json.Unmarshal(trimmed, &value) == nil {
			return node{value: value}, nil
		}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var value, more any
	if err := decoder.Decode(&value); err != nil {
		return node{}, fmt.Errorf("not YAML or JSON: %w", err)
	}
	if err := decoder.Decode(&more); !errors.Is(err, io.EOF) {
		return node{}, errors.New("must be one YAML document: Envoy reads only the first")
	}
	switch value.(type) {
	case map[string]any, []any:
		return node{value: value}, nil
	}
	return node{}, errors.New("must be a mapping or a list")
}

func (n node) exists() bool { return n.value != nil }

// at returns a field of a mapping by its name in snake_case, and finds it in lowerCamelCase too.
func (n node) at(name string) node {
	fields, _ := n.value.(map[string]any)
	if value, ok := fields[name]; ok {
		return node{n.join(name), value}
	}
	camel := camelCase(name)
	if value, ok := fields[camel]; ok {
		return node{n.join(camel), value}
	}
	return node{path: n.join(name)}
}

// in returns a field of nested mappings.
func (n node) in(names ...string) node {
	for _, name := range names {
		n = n.at(name)
	}
	return n
}

func camelCase(name string) string {
	first, rest, _ := strings.Cut(name, "_")
	for part := range strings.SplitSeq(rest, "_") {
		if part != "" {
			first += strings.ToUpper(part[:1]) + part[1:]
		}
	}
	return first
}

func (n node) join(name string) string {
	if strings.ContainsAny(name, ".[]/ ") {
		return n.path + "[" + strconv.Quote(name) + "]"
	}
	if n.path == "" {
		return name
	}
	return n.path + "." + name
}

// items returns the elements of a list.
func (n node) items() []node {
	list, _ := n.value.([]any)
	items := make([]node, len(list))
	for i, value := range list {
		items[i] = node{n.path + "[" + strconv.Itoa(i) + "]", value}
	}
	return items
}

// fields returns the fields of a mapping, sorted by name.
func (n node) fields() []field {
	m, _ := n.value.(map[string]any)
	all := make([]field, 0, len(m))
	for _, name := range sortedKeys(m) {
		all = append(all, field{name, node{n.join(name), m[name]}})
	}
	return all
}

type field struct {
	name string
	node
}

// children returns the elements or fields.
func (n node) children() []node {
	children := n.items()
	for _, f := range n.fields() {
		children = append(children, f.node)
	}
	return children
}

func (n node) text() string { s, _ := n.value.(string); return s }

func (n node) isTrue() bool { b, _ := n.value.(bool); return b }

// number returns a number, also one in a string, as JSON has those of 64 bits. It is 0 for others.
func (n node) number() float64 {
	switch v := n.value.(type) {
	case int:
		return float64(v)
	case int64:
		return float64(v)
	case uint64:
		return float64(v)
	case float64:
		return v
	case string:
		if f, err := strconv.ParseFloat(v, 64); err == nil {
			return f
		}
	}
	return 0
}

// duration returns a duration such as 0.5s.
func (n node) duration() (time.Duration, bool) {
	text, ok := strings.CutSuffix(n.text(), "s")
	seconds, err := strconv.ParseFloat(text, 64)
	if !ok || err != nil || seconds != seconds || seconds < 0 || seconds > float64(1<<31) {
		return 0, false
	}
	return time.Duration(seconds * float64(time.Second)), true
}

// shown returns a value for a finding, in one line.
func (n node) shown() string {
	if !n.exists() {
		return "absent"
	}
	const most = 80 // characters of a finding's line
	text, err := json.Marshal(n.value)
	if err != nil {
		return fmt.Sprintf("%T", n.value)
	}
	if len(text) > most {
		return strings.ToValidUTF8(string(text[:most]), "") + "…"
	}
	return string(text)
}

// typed returns the message inside an Any and its type without the prefix of the URL. A TypedStruct
// names the type of its value.
func (n node) typed() (kind string, message node) {
	_, kind, _ = strings.Cut(n.at("@type").text(), "/")
	if !strings.HasSuffix(kind, ".TypedStruct") {
		return kind, n
	}
	_, kind, _ = strings.Cut(n.at("type_url").text(), "/")
	return kind, n.at("value")
}
