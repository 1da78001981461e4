// Package result is the form of what a benchmark measures: tables of medians with their spread, and goals. It writes them as
// Markdown for a terminal and a document, and as JSON so that documents are made from the numbers and not by hand.
package result

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// File is what one run of a benchmark has measured.
type File struct {
	Bench   string  `json:"bench"`             // the name of its program
	Command string  `json:"command,omitempty"` // if it is not bench/BENCH
	Machine Machine `json:"machine"`
	Seconds float64 `json:"seconds"` // duration of the run
	Others  float64 `json:"others"`  // share of the cores that other programs used meanwhile
	Tables  []Table `json:"tables"`
	Goals   []Goal  `json:"goals,omitempty"`
	Charts  []Chart `json:"charts,omitempty"`
}

// Machine is what measures and is measured.
type Machine struct {
	Processor string `json:"processor"`
	Cores     int    `json:"cores"`
	MemoryGiB int    `json:"memory_gib"`
	Kernel    string `json:"kernel"`
	Go        string `json:"go"`
	Date      string `json:"date"` // of the run: YYYY-MM-DD
}

func (m Machine) withoutDate() Machine {
	m.Date = ""
	return m
}

// Table has a row for each thing that was measured.
type Table struct {
	Name    string   `json:"name"`    // unique among all benchmarks
	Caption string   `json:"caption"` // one sentence: how often and how long
	Columns []string `json:"columns"` // with the unit after a comma; the first one describes the rows
	Rows    []Row    `json:"rows"`
}

// Row has a cell for each column but the first.
type Row struct {
	Name  string `json:"name"`
	Cells []Cell `json:"cells"`
}

// Cell is empty, or one value, or a value with the least and the greatest of the values that it is taken from.
type Cell []float64

// Median returns the median of one or more values with their spread.
func Median(values []float64) Cell {
	return Spread(slices.Sorted(slices.Values(values))[len(values)/2], values)
}

// Spread returns a value with the spread of one or more values, such as a percentile of all rounds with those of each.
func Spread(value float64, values []float64) Cell {
	return Cell{round(value), round(slices.Min(values)), round(slices.Max(values))}
}

// Value returns a cell without a spread.
func Value(value float64) Cell { return Cell{round(value)} }

// Goal is a bound for a value. Exactly one of AtMost and AtLeast is set.
type Goal struct {
	Name     string  `json:"name"`
	Measured Cell    `json:"measured"`
	AtMost   float64 `json:"at_most,omitempty"`
	AtLeast  float64 `json:"at_least,omitempty"`
}

// Reached reports whether the value is within the bound. An empty cell is not.
func (g Goal) Reached() bool {
	if len(g.Measured) == 0 {
		return false
	}
	if g.AtLeast != 0 {
		return g.Measured[0] >= g.AtLeast
	}
	return g.Measured[0] <= g.AtMost
}

// Markdown returns the caption and the table.
func (t Table) Markdown() string {
	var text strings.Builder
	if t.Caption != "" {
		text.WriteString(t.Caption + "\n\n")
	}
	writeRow(&text, t.Columns)
	writeRow(&text, slices.Repeat([]string{"---"}, len(t.Columns)))
	for _, row := range t.Rows {
		cells := []string{row.Name}
		for _, cell := range row.Cells {
			cells = append(cells, cell.String())
		}
		writeRow(&text, cells)
	}
	return text.String()
}

// GoalsMarkdown returns a table of goals.
func GoalsMarkdown(goals []Goal) string {
	var text strings.Builder
	writeRow(&text, []string{"goal", "bound", "measured", "reached"})
	writeRow(&text, slices.Repeat([]string{"---"}, 4))
	for _, g := range goals {
		bound, reached := "at most "+format(g.AtMost), "yes"
		if g.AtLeast != 0 {
			bound = "at least " + format(g.AtLeast)
		}
		if !g.Reached() {
			reached = "**no**"
		}
		writeRow(&text, []string{g.Name, bound, g.Measured.String(), reached})
	}
	return text.String()
}

func writeRow(text *strings.Builder, cells []string) {
	text.WriteString("| " + strings.Join(cells, " | ") + " |\n")
}

// String returns the value and, in parentheses, the spread.
func (c Cell) String() string {
	switch len(c) {
	case 0:
		return ""
	case 1:
		return format(c[0])
	default:
		return fmt.Sprintf("%s (%s to %s)", format(c[0]), format(c[1]), format(c[2]))
	}
}

// digits is the number of significant digits of a value. Fewer hide small differences; more show noise.
const digits = 3

// round returns a value with three digits more than are shown, so that rounding it again shows the same as rounding once.
func round(value float64) float64 {
	rounded, err := strconv.ParseFloat(strconv.FormatFloat(value, 'g', digits+3, 64), 64)
	if err != nil {
		panic(err) // FormatFloat writes what ParseFloat reads
	}
	return rounded
}

// format writes a value with its significant digits, and with commas between thousands.
func format(value float64) string {
	shown, err := strconv.ParseFloat(strconv.FormatFloat(value, 'g', digits, 64), 64)
	if err != nil {
		panic(err) // as in round
	}
	text := strconv.FormatFloat(shown, 'f', -1, 64)
	whole, fraction, hasFraction := strings.Cut(text, ".")
	for i := len(whole) - 3; i > 0 && whole[i-1] != '-'; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if hasFraction {
		return whole + "." + fraction
	}
	return whole
}

// Read reads a file that Write has written.
func Read(path string) (f File, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return f, err
	}
	if err := json.Unmarshal(text, &f); err != nil {
		return f, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// Write writes a file.
func (f File) Write(path string) error { return save(path, f) }

// numbers matches an array of numbers over several lines.
var numbers = regexp.MustCompile(`\[\s+([-+.0-9e,\s]+?)\s+\]`)

// save writes a value as JSON, with each cell on one line.
func save(path string, value any) error {
	text, err := json.MarshalIndent(value, "", "\t")
	if err != nil {
		return err
	}
	text = numbers.ReplaceAllFunc(text, func(cell []byte) []byte { return bytes.Join(bytes.Fields(cell), nil) })
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
