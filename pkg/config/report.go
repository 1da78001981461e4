package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

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
