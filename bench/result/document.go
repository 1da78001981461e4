package result

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
)

// Results are the results of all benchmarks.
type Results []File

// Load reads results that Save has written. Without a file there are none.
func Load(path string) (r Results, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// Replace reads the files that benchmarks have written, and replaces their earlier results. It is an error if the results are
// then of different machines.
func (r Results) Replace(paths []string) (Results, error) {
	r = slices.Clone(r)
	for _, path := range paths {
		file, err := Read(path)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(r, func(old File) bool { return old.Bench == file.Bench })
		if i < 0 {
			r = append(r, file)
		} else {
			r[i] = file
		}
	}
	for _, file := range r {
		if a, b := r[0].Machine.withoutDate(), file.Machine.withoutDate(); a != b {
			return nil, fmt.Errorf("bench/%s and bench/%s were run on different machines or Go versions: run all benchmarks: %+v, %+v", r[0].Bench, file.Bench, a, b)
		}
	}
	return r, nil
}

// Save writes the results.
func (r Results) Save(path string) error { return save(path, r) }

// texts returns the Markdown of each place of a document by its name.
func (r Results) texts() map[string]string {
	texts := map[string]string{}
	var goals []Goal
	for _, file := range r {
		goals = append(goals, file.Goals...)
		tables := make([]string, len(file.Tables))
		for i, t := range file.Tables {
			tables[i] = t.Markdown()
		}
		for _, c := range file.Charts {
			tables = append(tables, fmt.Sprintf("![%s](%s)\n", c.Title, c.File))
		}
		texts[file.Bench] = strings.Join(tables, "\n")
	}
	texts["goals"], texts["machine"] = GoalsMarkdown(goals), r.machine()
	return texts
}

// machine lists what the benchmarks have run on, and how long.
func (r Results) machine() string {
	var text strings.Builder
	if len(r) == 0 {
		return ""
	}
	m := r[0].Machine
	fmt.Fprintf(&text, "- %s, %d cores, %d GiB; Linux %s; %s.\n", m.Processor, m.Cores, m.MemoryGiB, m.Kernel, m.Go)
	for _, file := range r {
		fmt.Fprintf(&text, "- `%s`: on %s, %s s. Other programs used %s of the cores.\n",
			cmp.Or(file.Command, "bench/"+file.Bench), file.Machine.Date, format(file.Seconds), percent(file.Others))
	}
	return text.String()
}

func percent(share float64) string { return fmt.Sprintf("%.0f %%", 100*share) }

// place matches the start of the part of a document that shows results.
var place = regexp.MustCompile(`(?m)^<!-- bench (\S+) -->\n`)

// Fill returns the document with results in their places, which are between the lines "<!-- bench NAME -->" and "<!-- /bench NAME
// -->". The place of a benchmark has all its tables and charts; those of machine and goals are of all benchmarks. It is an error if results
// have no place.
func (r Results) Fill(document string) (string, error) {
	texts := r.texts()
	var filled strings.Builder
	for {
		start := place.FindStringSubmatchIndex(document)
		if start == nil {
			break
		}
		name := document[start[2]:start[3]]
		end := "<!-- /bench " + name + " -->"
		_, rest, closed := strings.Cut(document[start[1]:], end)
		if !closed {
			return "", fmt.Errorf("the place of %s has no end", name)
		}
		text, known := texts[name]
		if !known {
			text = "Not measured.\n"
		}
		delete(texts, name)
		filled.WriteString(document[:start[1]] + text + end)
		document = rest
	}
	var errs []error
	for name := range texts {
		errs = append(errs, fmt.Errorf("%s has no place", name))
	}
	return filled.String() + document, errors.Join(errs...)
}

// Draw returns the pictures of plots and of all charts by their files, relative to the document's folder.
func (r Results) Draw(plots []Plot) (map[string][]byte, error) {
	tables, pictures := map[string]Table{}, map[string][]byte{}
	var errs []error
	for _, file := range r {
		for _, t := range file.Tables {
			tables[t.Name] = t
		}
		for _, c := range file.Charts {
			picture, err := c.SVG()
			pictures[c.File] = picture
			errs = append(errs, err)
		}
	}
	for _, p := range plots {
		picture, err := p.SVG(tables[p.Table])
		pictures[p.File] = picture
		errs = append(errs, err)
	}
	return pictures, errors.Join(errs...)
}
