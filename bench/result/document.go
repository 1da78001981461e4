package result

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// Results are the results of all benchmarks.
type Results []File

// Load reads results that Save has written.
func Load(path string) (r Results, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// Join reads the results that the benchmarks have written. It is an error if they are from different machines.
func Join(paths []string) (r Results, err error) {
	for _, path := range paths {
		file, err := Read(path)
		if err != nil {
			return nil, err
		}
		r = append(r, file)
		if a, b := r[0].Machine.withoutDate(), file.Machine.withoutDate(); a != b {
			return nil, fmt.Errorf("%s is from another machine or Go version than %s: %+v, not %+v", path, paths[0], b, a)
		}
	}
	return r, nil
}

// Save writes the results.
func (r Results) Save(path string) error { return save(path, r) }

// texts returns the Markdown of each place of a document by its name: the tables, goals and machine.
func (r Results) texts() map[string]string {
	texts := map[string]string{}
	var goals []Goal
	for _, file := range r {
		goals = append(goals, file.Goals...)
		for _, t := range file.Tables {
			texts[t.Name] = t.Markdown()
		}
		texts["machine"] = file.Machine.Markdown()
	}
	texts["goals"] = GoalsMarkdown(goals)
	return texts
}

// place matches the start of the part of a document that shows a table.
var place = regexp.MustCompile(`(?m)^<!-- bench (\S+) -->\n`)

// Fill returns the document with the tables in their places, which are between the lines "<!-- bench NAME -->" and "<!-- /bench
// NAME -->". It is an error if a table has no place or a place has no table.
func (r Results) Fill(document string) (string, error) {
	texts := r.texts()
	var filled strings.Builder
	var errs []error
	for {
		start := place.FindStringSubmatchIndex(document)
		if start == nil {
			break
		}
		name := document[start[2]:start[3]]
		end := "<!-- /bench " + name + " -->"
		_, rest, closed := strings.Cut(document[start[1]:], end)
		text, known := texts[name]
		delete(texts, name)
		if !closed {
			return "", fmt.Errorf("the place of %s has no end", name)
		}
		if !known {
			errs = append(errs, fmt.Errorf("no benchmark has reported the table %s, or it has two places", name))
		}
		filled.WriteString(document[:start[1]] + text + end)
		document = rest
	}
	for name := range texts {
		errs = append(errs, fmt.Errorf("table %s has no place", name))
	}
	return filled.String() + document, errors.Join(errs...)
}

// Draw returns the pictures of plots by their file names.
func (r Results) Draw(plots []Plot) (map[string][]byte, error) {
	tables := map[string]Table{}
	for _, file := range r {
		for _, t := range file.Tables {
			tables[t.Name] = t
		}
	}
	pictures := map[string][]byte{}
	var errs []error
	for _, p := range plots {
		picture, err := p.SVG(tables[p.Table])
		pictures[p.File] = picture
		errs = append(errs, err)
	}
	return pictures, errors.Join(errs...)
}
