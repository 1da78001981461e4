package config

import (
	_ "embed" // the structs' own source
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v4"
)

// The source of the structs: their comments are the documentation of the fields.
var (
	//go:embed authzd.go
	authzdSource string
	//go:embed keyd.go
	keydSource string
	//go:embed types.go
	typesSource string
)

// Reference returns the fields of a configuration, Authzd or Keyd, as a Markdown table of names,
// defaults and meanings.
func Reference[C any, P program[C]]() string {
	cfg := P(new(C))
	cfg.setDefaults()
	t := table{comments: comments()}
	t.row("field", "default", "meaning")
	t.row("---", "---", "---")
	t.fields(reflect.ValueOf(cfg).Elem(), "")
	return t.String()
}

type table struct {
	strings.Builder
	comments map[string]string
}

func (t *table) row(cells ...string) {
	for i, cell := range cells {
		cells[i] = strings.ReplaceAll(cell, "|", `\|`)
	}
	_, _ = t.WriteString("| " + strings.Join(cells, " | ") + " |\n")
}

func (t *table) fields(v reflect.Value, in string) {
	for f, value := range v.Fields() {
		field := join(in, nameOf(f))
		meaning := described(t.comments[v.Type().Name()+"."+f.Name], f.Tag)
		inner, nested := section(f.Type)
		switch {
		case nested && f.Type.Kind() == reflect.Pointer:
			t.row(code(field), "none", meaning)
			t.fields(newDefault(inner).Elem(), field)
		case nested:
			t.fields(value, field)
		default:
			t.row(code(field), defaultOf(f, value), meaning)
			t.items(f.Type, field)
		}
	}
}

// items adds the fields of the items of a list or map.
func (t *table) items(of reflect.Type, field string) {
	name := ""
	switch of.Kind() {
	case reflect.Slice:
		name = field + "[]"
	case reflect.Map:
		name = field + "[NAME]"
	default:
		return
	}
	if inner, ok := section(of.Elem()); ok {
		t.fields(newDefault(inner).Elem(), name)
	}
}

func code(s string) string { return "`" + s + "`" }

func defaultOf(f reflect.StructField, v reflect.Value) string {
	switch {
	case f.Tag.Get("required") != "":
		return "required"
	case isNone(v):
		return "none"
	}
	var node yaml.Node
	err := node.Dump(v.Interface())
	for _, n := range append(node.Content, &node) {
		n.Style |= yaml.FlowStyle
	}
	text, dumpErr := yaml.Dump(&node)
	if err = errors.Join(err, dumpErr); err != nil {
		panic(err) // a default of this package
	}
	return code(strings.TrimSpace(string(text)))
}

// isNone reports whether a default means that the field is not given.
func isNone(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.String, reflect.Pointer:
		return v.IsZero()
	case reflect.Slice:
		return v.Len() == 0
	default:
		return false
	}
}

// described returns the meaning of a field with what its tag says.
func described(comment string, tag reflect.StructTag) string {
	if low, high := bounds(tag); high != "" {
		comment += fmt.Sprintf(" %s to %s.", code(low), code(high))
	}
	if list := oneOf(tag); list != nil {
		for i := range list {
			list[i] = code(list[i])
		}
		comment += " " + anyOf(list) + "."
	}
	if tag.Get("restart") != "" {
		comment += " A change requires a restart."
	}
	return comment
}

// comments returns the comments of the fields of all structs by TYPE.FIELD.
func comments() map[string]string {
	found := map[string]string{}
	for _, source := range []string{authzdSource, keydSource, typesSource} {
		file, err := parser.ParseFile(token.NewFileSet(), "", source, parser.ParseComments)
		if err != nil {
			panic(err) // this package has been compiled
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if s, ok := spec.Type.(*ast.StructType); ok {
				for _, f := range s.Fields.List {
					for _, name := range f.Names {
						found[spec.Name.Name+"."+name.Name] = strings.Join(strings.Fields(f.Doc.Text()), " ")
					}
				}
			}
			return false
		})
	}
	return found
}
