package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// maxMistakes bounds how many mistakes are told; nobody reads more.
const maxMistakes = 100

// report collects the mistakes of one file.
type report struct {
	label    string         // the file's name
	lines    map[string]int // line of each field that the file gives, by its full name
	mistakes []mistake

	missingFiles missingFiles
}

type mistake struct {
	line                  int // 0: the file does not give the field
	field, found, allowed string
}

// wrong notes a mistake; found and allowed are the ends of "found …, allowed …".
func (r *report) wrong(field, found, allowed string) {
	r.mistakes = append(r.mistakes, mistake{r.line(field), field, found, allowed})
}

// given tells whether the file has the field at all, right or wrong.
func (r *report) given(field string) bool { _, ok := r.lines[field]; return ok }

// spoiled tells whether the field itself is a mistake, so that what is in it need
// not be looked at.
func (r *report) spoiled(field string) bool {
	return slices.ContainsFunc(r.mistakes, func(m mistake) bool { return m.field == field })
}

// withinSpoiled tells whether something that the field is in is a mistake itself.
func (r *report) withinSpoiled(field string) bool {
	for field != "" {
		field = field[:max(0, strings.LastIndexAny(field, ".["))]
		if r.spoiled(field) {
			return true
		}
	}
	return false
}

// line returns the line of the field or, if the file does not give it, of the
// nearest one that it would be in.
func (r *report) line(field string) int {
	for field != "" {
		if line, ok := r.lines[field]; ok {
			return line
		}
		field = field[:max(0, strings.LastIndexAny(field, ".["))]
	}
	return r.lines[""]
}

// only leaves the mistakes of the section and of the file as a whole.
func (r *report) only(section string) *report {
	kept := slices.DeleteFunc(slices.Clone(r.mistakes), func(m mistake) bool {
		return m.field != "" && m.field != section && !strings.HasPrefix(m.field, section+".")
	})
	return &report{label: r.label, lines: r.lines, mistakes: kept}
}

// err returns all mistakes in the order of the file, one line each; nil if there
// are none.
func (r *report) err() error {
	if len(r.mistakes) == 0 {
		return nil
	}
	slices.SortStableFunc(r.mistakes, func(a, b mistake) int { return cmp.Compare(a.line, b.line) })
	var lines []string
	for _, m := range r.mistakes[:min(len(r.mistakes), maxMistakes)] {
		lines = append(lines, r.text(m))
	}
	if more := len(r.mistakes) - maxMistakes; more > 0 {
		lines = append(lines, fmt.Sprintf("%s: and %d more", r.label, more))
	}
	return errors.New(strings.Join(lines, "\n"))
}

func (r *report) text(m mistake) string {
	var b strings.Builder
	b.WriteString(r.label)
	if m.line > 0 {
		b.WriteString(":" + strconv.Itoa(m.line))
	}
	if m.field != "" {
		b.WriteString(": " + m.field)
	}
	b.WriteString(": found " + m.found + ", allowed " + m.allowed)
	return b.String()
}

// maxShown is how much of a value a message repeats, in bytes.
const maxShown = 60

// show quotes a value from the file for a message. What may be a credential that
// somebody wrote into the file is not repeated.
func show(value string) string {
	switch {
	case strings.Contains(value, credential.KeyPrefix), strings.Contains(value, credential.SessionPrefix),
		strings.Contains(value, "@"):
		return "a value that is not shown, because it may hold a secret"
	case len(value) > maxShown:
		return strconv.Quote(strings.ToValidUTF8(value[:maxShown], "")) + "…"
	}
	return strconv.Quote(value)
}

// word shows a field name of the file: as it is if it looks like one.
func word(name string) string {
	plain := strings.IndexFunc(name, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-'
	}) < 0
	if plain && name != "" && len(name) <= maxShown && !strings.HasPrefix(name, credential.KeyPrefix) &&
		!strings.HasPrefix(name, credential.SessionPrefix) {
		return name
	}
	return "[" + show(name) + "]"
}

// anyOf joins words as "a, b or c".
func anyOf(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}
