package main

import (
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
)

// table is rows of cells. Cells from outside must have passed through visible.
type table [][]string

// String aligns the columns, with two spaces between them.
func (t table) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range t {
		_, _ = fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush()
	return b.String()
}

// visible makes a text from outside safe for a terminal and for a cell of a table. It escapes
// every character that could move the cursor, break the line, change the direction of the text or be
// invisible. It also escapes the backslash, so that different texts look different.
func visible(s string) string {
	quoted := strconv.Quote(s)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}
