package main

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/width"

	"github.com/phantomrouter/phantom-authz/pkg/credential"
)

// table is rows of cells that are printed in columns. The cells are printed as they
// are: what comes from outside passes through visible first.
type table struct {
	header []string
	rows   [][]string
}

// String lays the table out: two blanks between columns, none at the end of a line.
func (t table) String() string {
	rows := t.rows
	if len(t.header) > 0 {
		rows = append([][]string{t.header}, rows...)
	}
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], columns(cell))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		for i, cell := range row {
			b.WriteString(cell)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-columns(cell)+2))
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// columns is how wide a terminal shows a text.
func columns(s string) int {
	n := 0
	for _, r := range s {
		switch kind := width.LookupRune(r).Kind(); {
		case unicode.In(r, unicode.Mn, unicode.Me): // stands on the letter before it
		case kind == width.EastAsianWide || kind == width.EastAsianFullwidth:
			n += 2
		default:
			n++
		}
	}
	return n
}

// visible makes a text from outside fit for a terminal and a table's cell: whatever
// could move the cursor, break the line, turn the writing's direction or hide is
// written as an escape, and so is the backslash, so that no two texts look alike.
func visible(s string) string {
	var b strings.Builder
	for i, size := 0, 0; i < len(s); i += size {
		var r rune
		r, size = utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\\':
			b.WriteString(`\\`)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case unicode.IsPrint(r): // letters, marks, numbers, punctuation, symbols, and the blank
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, `\u{%x}`, r)
		}
	}
	return b.String()
}

// shown is an argument as an error repeats it: quoted, visible, not too long, and no
// secret.
func shown(arg string) string {
	const most = 60
	if shape := credential.ShapeOf(arg); shape != credential.Foreign {
		return "a plaintext (" + arg[:len(credential.KeyPrefix)] + "…)"
	}
	if runes := []rune(arg); len(runes) > most {
		arg = string(runes[:most]) + "…"
	}
	return `"` + visible(arg) + `"`
}
